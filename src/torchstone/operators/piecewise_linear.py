"""Which parameters do the outputs depend on piecewise linearly, so that their Hessian trace is the Gauss-Newton one?

With f the outputs and l the loss, H = GGN + (1/N) sum_n sum_c (dl_n/df_c) d^2 f_nc / dtheta^2. If every output is a
piecewise affine function of one parameter tensor, all others held fixed, then d^2 f / dp_i^2 = 0 for each of its
entries, and the blocks of H and GGN of that tensor have the same diagonal, hence the same trace.

Whether that is so is read off the autograd graph. Going from the parameters to the outputs, each node is given the set
of parameters it depends on and the set of those it may be curved in. A node adds to the second set according to its
rule; a node without a rule adds every parameter it depends on. So an unknown operation costs exactness, never truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from torchstone.operators.graph import Node, nodes_of

Rule = Callable[[Node, list[int]], int]
"""(node, parameters that each argument depends on, as bits) -> parameters that the node bends."""


def curved_parameters(outputs: Tensor, losses: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Parameters in which the outputs may be curved, each with the operation that bends them.

    Cost: one walk over the graph; nothing is computed.

    Args:
        outputs: Outputs of a batch with their graph.
        losses: The losses computed from these outputs.
        parameters: The parameters in question, by name.

    Returns:
        By name, why the trace of the parameter's block of the Hessian may differ from that of the Gauss-Newton matrix.
        A parameter that is missing here has exactly the same trace in both.
    """
    bits = {id(parameter): 1 << position for position, parameter in enumerate(parameters.values())}
    names = list(parameters)
    reasons: dict[str, str] = {}
    depends: dict[Node, int] = {}
    curved: dict[Node, int] = {}
    for node in reversed(nodes_of(outputs)):
        variable = getattr(node, "variable", None)
        if variable is not None:
            depends[node], curved[node] = bits.get(id(variable), 0), 0
            continue
        below = [function for function, _ in node.next_functions]
        arguments = [0 if function is None else depends[function] for function in below]
        inherited = _union([0 if function is None else curved[function] for function in below])
        bent = _RULES.get(node.name(), _bends_all)(node, arguments)
        depends[node], curved[node] = _union(arguments), inherited | bent
        for position in _positions(bent & ~inherited):
            reasons.setdefault(names[position], operation(node))
    final = curved.get(outputs.grad_fn, 0)
    found = {names[position]: reasons[names[position]] for position in _positions(final)}
    return found | dict.fromkeys(_around_outputs(outputs, losses, parameters), "the loss itself")


def operation(node: Node) -> str:
    """The operation that a node differentiates, such as "Tanh"."""
    return node.name().rsplit("::", 1)[-1].split("Backward")[0]


def _around_outputs(outputs: Tensor, losses: Tensor, parameters: Mapping[str, Tensor]) -> list[str]:
    """Parameters that the losses reach by another way than through the outputs."""
    by_variable = {id(parameter): name for name, parameter in parameters.items()}
    found, seen, stack = [], {outputs.grad_fn}, [losses.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = by_variable.get(id(getattr(node, "variable", None)))
        if name is not None:
            found.append(name)
        stack += [below for below, _ in node.next_functions]
    return found


def _union(sets: list[int]) -> int:
    total = 0
    for one in sets:
        total |= one
    return total


def _positions(bits: int) -> list[int]:
    return [position for position in range(bits.bit_length()) if bits >> position & 1]


# -- rules -----------------------------------------------------------------------------------------------------------


def _bends_all(_node: Node, arguments: list[int]) -> int:
    return _union(arguments)


def _bends_none(_node: Node, _arguments: list[int]) -> int:
    """Piecewise linear in all arguments jointly."""
    return 0


def _bends_shared(_node: Node, arguments: list[int]) -> int:
    """Linear in each argument while the others are fixed: bends what occurs in two of them."""
    seen = shared = 0
    for one in arguments:
        shared |= seen & one
        seen |= one
    return shared


def _bends_first(_node: Node, arguments: list[int]) -> int:
    """Not linear in the first argument, linear in the others jointly."""
    return arguments[0]


def _bends_rest(_node: Node, arguments: list[int]) -> int:
    """Linear in the first argument only."""
    return _union(arguments[1:])


def _batch_norm(node: Node, arguments: list[int]) -> int:
    """An affine map of its input with stored statistics; with those of the batch a normalisation."""
    training = getattr(node, "_saved_training", True)
    return _bends_shared(node, arguments) if training is False else _bends_first(node, arguments)


def _embedding(node: Node, arguments: list[int]) -> int:
    """A choice of rows, unless gradients are divided by the counts in the batch."""
    scaled = getattr(node, "_saved_scale_grad_by_freq", True)
    return _bends_shared(node, arguments) if scaled is False else _bends_all(node, arguments)


def _absolute(node: Node, arguments: list[int]) -> int:
    """Piecewise linear for real numbers, sqrt(re^2 + im^2) for complex ones."""
    function, index = node.next_functions[0]
    metadata = getattr(function, "_input_metadata", None)
    is_real = metadata is not None and metadata[index].dtype.is_floating_point
    return 0 if is_real else _bends_all(node, arguments)


_LINEAR = [
    "Add0",
    "Add1",
    "Sub0",
    "Sub1",
    "Rsub0",
    "Rsub1",
    "Neg0",
    "Div1",
    "Mul1",
    "Sum0",
    "Sum1",
    "Mean0",
    "Mean1",
    "Cumsum0",
    "Trace0",
    "Lerp0",
    "View0",
    "UnsafeView0",
    "ReshapeAlias0",
    "Alias0",
    "AsStrided0",
    "T0",
    "Transpose0",
    "Transpose1",
    "Permute0",
    "Expand0",
    "Repeat0",
    "Squeeze0",
    "Squeeze1",
    "Squeeze2",
    "Squeeze3",
    "Squeeze4",
    "Squeeze5",
    "Unsqueeze0",
    "Unsqueeze1",
    "Slice0",
    "Select0",
    "Split0",
    "UnsafeSplit0",
    "SplitWithSizes0",
    "UnsafeSplitWithSizes0",
    "Chunk0",
    "Unbind0",
    "Cat0",
    "Stack0",
    "Index0",
    "UnsafeIndex0",
    "IndexSelect0",
    "Gather0",
    "Take0",
    "MaskedSelect0",
    "Unfold0",
    "IndexAdd0",
    "IndexCopy0",
    "IndexFill0",
    "IndexFill1",
    "IndexPut0",
    "Scatter0",
    "Scatter1",
    "ScatterAdd0",
    "MaskedScatter0",
    "Put0",
    "SliceScatter0",
    "SelectScatter0",
    "DiagonalScatter0",
    "Clone0",
    "ToCopy0",
    "Flip0",
    "Roll0",
    "Rot900",
    "Diagonal0",
    "DiagEmbed0",
    "Tril0",
    "Triu0",
    "Im2Col0",
    "Col2Im0",
    "PixelShuffle0",
    "PixelUnshuffle0",
    "ChannelShuffle0",
    "ConstantPadNd0",
    "ReflectionPad1D0",
    "ReflectionPad2D0",
    "ReflectionPad3D0",
    "ReplicationPad1D0",
    "ReplicationPad2D0",
    "ReplicationPad3D0",
    "AvgPool2D0",
    "AvgPool3D0",
    "AdaptiveAvgPool2D0",
    "AdaptiveAvgPool3D0",
    "UpsampleNearest1D0",
    "UpsampleNearest2D0",
    "UpsampleNearest3D0",
    "UpsampleNearestExact1D0",
    "UpsampleNearestExact2D0",
    "UpsampleNearestExact3D0",
    "UpsampleLinear1D0",
    "UpsampleBilinear2D0",
    "UpsampleTrilinear3D0",
    "UpsampleBicubic2D0",
    "NativeDropout0",
    "FusedDropout0",
    "Where0",
    "MaskedFill0",
    "MaskedFill1",
]

_PIECEWISE = [
    "Relu0",
    "LeakyRelu0",
    "Hardtanh0",
    "Threshold0",
    "Hardsigmoid0",
    "Hardshrink0",
    "Softshrink0",
    "Clamp0",
    "Clamp1",
    "ClampMin0",
    "ClampMin1",
    "ClampMax0",
    "ClampMax1",
    "Max0",
    "Max1",
    "Min0",
    "Min1",
    "Maximum0",
    "Minimum0",
    "Fmax0",
    "Fmin0",
    "Amax0",
    "Amin0",
    "Aminmax0",
    "Cummax0",
    "Cummin0",
    "Median0",
    "Median1",
    "Kthvalue0",
    "Topk0",
    "Sort0",
    "Sort1",
    "MaxPool2DWithIndices0",
    "MaxPool3DWithIndices0",
    "AdaptiveMaxPool2D0",
    "AdaptiveMaxPool3D0",
]

_MULTILINEAR = [
    "Mul0",
    "Mm0",
    "Bmm0",
    "Mv0",
    "Dot0",
    "Addmm0",
    "Addbmm0",
    "Baddbmm0",
    "Addmv0",
    "Addr0",
    "Addcmul0",
    "Linear0",
    "Trilinear0",
    "Convolution0",
    "PreluKernel0",
]


def _spelled(name: str) -> str:
    """The node's name for an operation and the number of its overload: Rot900 -> Rot90Backward0."""
    return f"{name[:-1]}Backward{name[-1]}"


_RULES: dict[str, Rule] = {
    **{_spelled(name): _bends_none for name in _LINEAR + _PIECEWISE},
    **{_spelled(name): _bends_shared for name in _MULTILINEAR},
    "torch::autograd::CopyBackwards": _bends_none,
    "DivBackward0": _bends_rest,
    "GridSampler2DBackward0": _bends_rest,
    "GridSampler3DBackward0": _bends_rest,
    "NativeLayerNormBackward0": _bends_first,
    "NativeGroupNormBackward0": _bends_first,
    "FusedRmsNormBackward0": _bends_first,
    "WeightNormInterfaceBackward0": _bends_first,
    "NativeBatchNormBackward0": _batch_norm,
    "CudnnBatchNormBackward0": _batch_norm,
    "EmbeddingBackward0": _embedding,
    "EmbeddingBagBackward0": _embedding,
    "AbsBackward0": _absolute,
}
