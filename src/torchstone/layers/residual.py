"""Residual blocks with shortcuts that fit, and stochastic depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.fans import WEIGHTED


class PadShortcut(nn.Module):
    """A shortcut without parameters: every stride-th pixel, channels padded with zeros or cut off.

    Args:
        inputs: Channels of its input.
        outputs: Channels of its output.
        stride: Of images; 1 for vectors.

    Raises:
        SettingError: A number below 1; in the forward pass, a wrong number of channels.

    Source: He et al. 2016a, section 3.2, option A.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        if min(inputs, outputs, stride) < 1:
            raise SettingError(
                "PadShortcut needs channels and a stride of at least 1",
                f"{inputs}, {outputs}, {stride}",
                "Raise it.",
            )
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, ...) to (N, outputs, ...)."""
        if x.ndim < 2 or x.shape[1] != self.inputs:
            raise SettingError(
                f"This shortcut takes (N, {self.inputs}, ...)",
                f"shape {tuple(x.shape)}",
                "Change its inputs.",
            )
        if self.stride != 1:
            x = x[(slice(None), slice(None), *(slice(None, None, self.stride),) * (x.ndim - 2))]
        if self.outputs <= self.inputs:
            return x[:, : self.outputs]
        return torch.cat([x, x.new_zeros(x.shape[0], self.outputs - self.inputs, *x.shape[2:])], dim=1)

    def extra_repr(self) -> str:
        """Settings, for print(model)."""
        return f"{self.inputs}, {self.outputs}, stride={self.stride}"


def projection_shortcut(inputs: int, outputs: int, stride: int = 1, dimensions: int = 0) -> nn.Module:
    """A learned shortcut: a matrix, or a 1x1 convolution of some stride; the identity where nothing changes.

    Args:
        inputs: Channels of its input.
        outputs: Channels of its output.
        stride: Of images.
        dimensions: 0 for vectors (N, C), 1 to 3 for signals, images and volumes.

    Source: He et al. 2016a, section 3.2, option B.
    """
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if dimensions == 0:
        return nn.Linear(inputs, outputs, bias=False)
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    if dimensions not in kinds:
        raise SettingError("dimensions must be 0, 1, 2 or 3", f"{dimensions}", "2 for images.")
    return kinds[dimensions](inputs, outputs, 1, stride, bias=False)


class Residual(nn.Module):
    r"""h(x) = shortcut(x) + scale * branch(x), with the branch dropped at random in training if wanted.

    Its Jacobian is I + scale J where the shortcut is the identity, with singular values between 1 - scale |J| and
    1 + scale |J|: with scale = 1/L, L blocks keep them between (1 - |J|/L)^L and (1 + |J|/L)^L.

    Args:
        branch: F, of the shortcut's output shape.
        shortcut: The identity by default.
        scale: Factor of the branch.
        drop: Probability that an example skips the branch in training; the others' branch is divided by 1 - drop, so
            that the expectation is that of evaluation.

    Raises:
        SettingError: drop outside [0, 1) or a scale that is not finite, or in the forward pass a branch whose shape the shortcut's is not.

    Source: He et al. 2016a, b; Huang et al. 2016 (stochastic depth); Hardt & Ma 2017.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None = None, scale: float = 1.0, drop: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise SettingError("drop must lie in [0, 1)", repr(drop), "0 keeps every branch.")
        if not math.isfinite(scale):
            raise SettingError(
                "scale must be finite", repr(scale), "1/L or 1/sqrt(L) with L blocks is usual."
            )
        self.branch = branch
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.scale, self.drop = scale, drop

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        kept, change = self.shortcut(x), self.branch(x)
        if kept.shape != change.shape:
            raise SettingError(
                "Shortcut and branch must give one shape",
                f"{tuple(kept.shape)} and {tuple(change.shape)}",
                "Use PadShortcut or projection_shortcut.",
            )
        if self.drop and self.training:
            keep = torch.rand(len(x), *(1,) * (change.ndim - 1), device=x.device) >= self.drop
            change = change * keep.to(change.dtype) / (1 - self.drop)
        return kept + self.scale * change

    def extra_repr(self) -> str:
        """Settings, for print(model)."""
        return f"scale={self.scale:g}, drop={self.drop:g}"


def residual_blocks(model: nn.Module) -> list[Residual]:
    """Every residual block of a model, in order."""
    return [module for module in model.modules() if isinstance(module, Residual)]


def residual_branches(model: nn.Module) -> list[nn.Module]:
    """Their branches, as `torchstone.init.fixup` and `zero_last` take them."""
    return [block.branch for block in residual_blocks(model)]


def set_stochastic_depth(model: nn.Module, last: float) -> None:
    """Drop probabilities that grow linearly from 0 at the input to `last` at the last residual block.

    Raises:
        SettingError: last outside [0, 1), or no residual block.

    Source: Huang et al. 2016, section 3 (linear decay of survival).
    """
    blocks = residual_blocks(model)
    if not 0 <= last < 1:
        raise SettingError("last must lie in [0, 1)", repr(last), "0.5 is usual.")
    if not blocks:
        raise SettingError(
            "Stochastic depth needs residual blocks", "none", "Build them with layers.Residual."
        )
    for number, block in enumerate(blocks, start=1):
        block.drop = last * number / len(blocks)


def preactivation(
    features: int, layers: Iterable[nn.Module], norm: Callable[[int], nn.Module] = nn.BatchNorm1d
) -> nn.Sequential:
    """A branch that normalises and rectifies before each layer: norm, ReLU, layer, norm, ReLU, layer.

    Args:
        features: Channels of the branch's input, for the first normalisation.
        layers: Its weighted layers.
        norm: Makes a normalisation of so many channels, such as `nn.BatchNorm2d` or `partial(nn.GroupNorm, 4)`.

    Raises:
        SettingError: A layer that is not linear or a convolution.

    Source: He et al. 2016b, figure 4(e).
    """
    parts: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, WEIGHTED):
            raise SettingError(
                "The layers of a branch are linear or convolutions", type(layer).__name__, "ReLU is put in."
            )
        parts += [norm(features), nn.ReLU(), layer]
        features = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return nn.Sequential(*parts)
