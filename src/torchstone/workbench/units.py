"""Which axis of a layer's output holds its units: channels of maps come second, features of vectors and tokens last."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

_SECOND = (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)
_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention, nn.RMSNorm)


class UnitAxis:
    """Follows a forward pass; activations and pooling have their units where the last layer of their rank had them.

    Without such a layer, outputs of four and more dimensions are taken for maps (N, C, ...) and those of three for
    sequences (N, T, d).
    """

    def __init__(self) -> None:
        self._second: dict[int, bool] = {}

    def see(self, module: nn.Module, output: Tensor) -> None:
        """Note a module's output; only layers that fix where units are count."""
        over_features = isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1
        if isinstance(module, _SECOND):
            self._second[output.ndim] = True
        elif isinstance(module, _LAST) or over_features:
            self._second[output.ndim] = False

    def of(self, output: Tensor) -> int:
        """The axis of an output of at least two dimensions (examples and units)."""
        if output.ndim <= 2:
            return output.ndim - 1
        return 1 if self._second.get(output.ndim, output.ndim >= 4) else output.ndim - 1
