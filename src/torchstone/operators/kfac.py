"""K-FAC and EKFAC, from the library curvlinops, as linear maps."""

from __future__ import annotations

import warnings
from collections import Counter, UserDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import SettingError, SpecimenError
from torchstone.linalg import FunctionMap, LinearMap
from torchstone.objectives import Classification, Regression
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

_LAYERS = (nn.Linear, nn.Conv2d)


class KroneckerCurvature(LinearMap):
    r"""An approximation of the Gauss-Newton matrix: a Kronecker product a layer, nothing between layers.

    The block of a layer with inputs a (a 1 appended for the bias) and output gradients g is E[a a^T] (x) E[g g^T], where
    the Gauss-Newton matrix has E[a a^T (x) g g^T]; g runs through the factors of the loss Hessian. Exact for the layers'
    blocks where the two are independent: one example, or a network that is linear with squared error. `corrected`
    (EKFAC) keeps its eigenvectors and replaces its eigenvalues by the best ones. Weights shared over positions (of a
    convolution) are taken for independent (K-FAC-expand).

    As a preconditioner of `inverse` it saves products with `BlockDiagonal` of nearly linear networks (measured: a third of
    them are left); for the whole matrix, which has few large eigenvalues, none or less than none.

    Cost: once a forward and C backward passes (C outputs) and an eigendecomposition a layer of d_in and of d_out; then a
    product is one dense product a layer. Memory: d_in^2 + d_out^2 numbers a layer. Bias: that of the approximation. The
    factors stay those of the parameters at the time it was made. Every process does all of the work.

    Args:
        specimen: What is examined; classification by cross-entropy or regression by squared error.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones. All must belong to `nn.Linear` or `nn.Conv2d`.
        corrected: EKFAC instead of K-FAC.

    Raises:
        SettingError: curvlinops is not installed; another objective; parameters of other layers, shared or called
            several times or never; half precision.
        SpecimenError: No trainable parameter, or a complex one.

    Source: Martens & Grosse 2015; Grosse & Martens 2016; Eschenhagen et al. 2023; for EKFAC George et al. 2018.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        corrected: bool = False,
    ) -> None:
        self._library = _curvlinops()
        self.space = ParameterSpace.of(specimen, names)
        size = self.space.size
        super().__init__((size, size), self.space.dtype, self.space.device, symmetric=True)
        self.specimen, self.split, self.corrected = specimen, split, corrected
        loss = _loss(specimen)
        self._require_known_layers()
        kind = self._library.EKFACLinearOperator if corrected else self._library.KFACLinearOperator
        with specimen.measuring(), torch.enable_grad():
            self._require_one_call()
            self._factors = kind(
                _Outputs(specimen),
                loss,
                list(self.space.parameters),
                _Batches(specimen, split),
                check_deterministic=False,
                fisher_type="type-2",
                separate_weight_and_bias=False,
                num_data=specimen.size(split),
                num_per_example_loss_terms=1,
                batch_size_fn=lambda boxed: specimen.objective.size(boxed["batch"]),
            )
            self._matmat(torch.zeros(size, 1, dtype=self.dtype, device=self.device))  # makes the factors

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._factors @ X

    def inverse(self, damping: float) -> LinearMap:
        """(K + damping I)^-1, exactly: by the eigendecompositions of the factors.

        Args:
            damping: Added to the diagonal; positive.

        Raises:
            SettingError: Damping that is not positive.
        """
        if not damping > 0:
            raise SettingError(
                "damping must be positive", f"{damping}", "A hundredth of the largest eigenvalue."
            )
        inverted = self._library.KFACInverseLinearOperator(
            self._factors, damping=damping, use_exact_damping=True, cache=True
        )
        return FunctionMap(
            lambda X: inverted @ X, self.shape, self.dtype, self.device, block=True, symmetric=True
        )

    def _require_known_layers(self) -> None:
        coarse = [
            name
            for name, one in zip(self.space.names, self.space.parameters, strict=True)
            if one.itemsize < 4
        ]
        if coarse:
            raise SettingError(
                "K-FAC needs float32 or float64", f"half precision in {coarse[0]}", "Convert the model."
            )
        owners = Counter(
            parameter
            for module in self.specimen.model.modules()
            for parameter in module._parameters.values()
            if parameter is not None
        )
        known = {
            id(p)
            for m in self.specimen.model.modules()
            if isinstance(m, _LAYERS)
            for p in m._parameters.values()
        }
        for name, parameter in zip(self.space.names, self.space.parameters, strict=True):
            if id(parameter) not in known or owners[parameter] > 1:
                shared = "shared by several layers" if id(parameter) in known else "of another layer"
                raise SettingError(
                    "K-FAC approximates parameters of single Linear and Conv2d layers",
                    f"{name}, {shared}",
                    "Pass names= without it.",
                )

    def _require_one_call(self) -> None:
        """Hooks must see every layer once; some modules use a layer's weight without calling it."""
        ours = {id(parameter) for parameter in self.space.parameters}
        calls: Counter[str] = Counter()
        handles, names = [], []
        for name, module in self.specimen.model.named_modules():
            if isinstance(module, _LAYERS) and any(id(one) in ours for one in module._parameters.values()):
                names.append(name)
                count = lambda _module, _args, _output, name=name: calls.update([name])
                handles.append(module.register_forward_hook(count))
        try:
            self.specimen.forward(next(self.specimen.batches(self.split)))
        finally:
            for handle in handles:
                handle.remove()
        if wrong := [name for name in names if calls[name] != 1]:
            raise SettingError(
                "K-FAC needs layers that are called once a batch",
                f"{wrong[0]}, called {calls[wrong[0]]} times",
                "Pass names= without its parameters.",
            )


class _Outputs(nn.Module):
    """The network on a batch in a box, with outputs as the library's losses want them."""

    def __init__(self, specimen: Specimen) -> None:
        super().__init__()
        self.model, self._specimen = specimen.model, specimen

    def forward(self, boxed: Any) -> Tensor:
        outputs = self._specimen.forward(boxed["batch"])
        scores = self._specimen.objective.scores(outputs)
        return outputs.reshape(len(outputs), -1) if scores is None else scores


class _Batches:
    """The batches in boxes with their targets, to be read several times."""

    def __init__(self, specimen: Specimen, split: str) -> None:
        self.specimen, self.split = specimen, split

    def __iter__(self) -> Iterator[tuple[UserDict[str, Batch], Tensor]]:
        objective = self.specimen.objective
        for batch in self.specimen.batches(self.split):
            labels, target = objective.labels(batch), objective.target(batch)
            if labels is not None and bool((labels < 0).any()):
                raise SpecimenError(
                    "K-FAC needs a label for every example", "examples without one", "Leave them out."
                )
            assert target is not None  # of the two objectives there are
            yield UserDict(batch=batch), target.reshape(len(target), -1) if labels is None else labels


def _loss(specimen: Specimen) -> nn.Module:
    if type(specimen.objective) is Regression:
        return nn.MSELoss()
    first = next(specimen.batches())
    if type(specimen.objective) is Classification and specimen.objective.labels(first) is not None:
        return nn.CrossEntropyLoss()
    raise SettingError(
        "K-FAC is for Classification with one label an example, and for Regression",
        type(specimen.objective).__name__,
        "Use BlockDiagonal(GaussNewton(specimen)), which is exact for any objective.",
    )


def _curvlinops() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies use what PyTorch has deprecated
            import curvlinops
    except ImportError as error:
        raise SettingError(
            "K-FAC needs the package curvlinops",
            f"ImportError: {error}",
            'Run: pip install "torchstone[kfac]"',
        ) from None
    return curvlinops
