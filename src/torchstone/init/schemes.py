"""Initialisation schemes for the weight of one layer: wrapped from PyTorch where it has them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.delta_orthogonal import delta_orthogonal_
from torchstone.init.fans import CONVOLUTIONS, TRANSPOSED, fans

Scheme = Literal[
    "lecun",
    "lecun_uniform",
    "lecun_truncated",
    "xavier",
    "xavier_uniform",
    "kaiming",
    "kaiming_uniform",
    "kaiming_fan_out",
    "orthogonal",
    "delta_orthogonal",
]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# Standard deviation of a standard normal variable cut off at two: what "truncated" has to make up for.
TRUNCATED_DEVIATION = 0.8796256610342398


def standard_deviation(layer: nn.Module, scheme: Scheme, gain: float = 1.0) -> float:
    """Standard deviation of the weight's entries.

    LeCun: 1 / sqrt(fan_in), whatever the activation. Xavier: gain sqrt(2 / (fan_in + fan_out)). Kaiming:
    gain / sqrt(fan_in), or fan_out. Orthogonal: gain / sqrt(max(rows, columns)) of the weight as a matrix.

    Args:
        layer: A linear or convolution layer.
        scheme: One of `SCHEMES`.
        gain: sigma_w, what the activation behind the layer asks for (`init.gain`).

    Source: LeCun et al. 1998, section 4.6; Glorot & Bengio 2010, eq. (12); He et al. 2015, eqs. (10) and (14); Saxe et
    al. 2014.
    """
    fan_in, fan_out = fans(layer)
    if min(fan_in, fan_out) == 0:
        return 0.0
    if scheme.startswith("lecun"):
        return fan_in**-0.5
    if scheme.startswith("xavier"):
        return gain * (2 / (fan_in + fan_out)) ** 0.5
    if scheme == "kaiming_fan_out":
        return gain * fan_out**-0.5
    if scheme.startswith("kaiming"):
        return gain * fan_in**-0.5
    weight = layer.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape[0], weight.numel() // weight.shape[0]
    return gain * max(rows, columns) ** -0.5


@torch.no_grad()
def draw_weight(layer: nn.Module, scheme: Scheme, gain: float, generator: torch.Generator) -> Tensor:
    """A new weight for a layer, in its shape, type and device.

    Args:
        layer: A linear or convolution layer; it is not changed.
        scheme: One of `SCHEMES`.
        gain: As for `standard_deviation`.
        generator: A CPU generator; values are drawn in float32 or better on the CPU, so devices agree.

    Raises:
        SettingError: An unknown scheme, no CPU generator, or delta-orthogonal for a convolution with fewer outputs than
            inputs or an even kernel.
    """
    require_scheme(scheme)
    require_generator(generator)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    drawn = torch.empty(weight.shape, dtype=dtype)
    deviation = standard_deviation(layer, scheme, gain)
    if drawn.numel() == 0:
        pass
    elif scheme == "delta_orthogonal" and isinstance(layer, CONVOLUTIONS) and layer.groups == 1:
        delta_orthogonal_(drawn, gain, generator)
    elif scheme in ("orthogonal", "delta_orthogonal"):
        # The weight of a transposed convolution has its inputs first; its transpose is what acts.
        turned = drawn.transpose(0, 1).contiguous() if isinstance(layer, TRANSPOSED) else drawn
        nn.init.orthogonal_(turned, gain, generator)
        drawn.copy_(turned.transpose(0, 1) if isinstance(layer, TRANSPOSED) else turned)
    elif scheme.endswith("uniform"):
        reach = deviation * 3**0.5
        nn.init.uniform_(drawn, -reach, reach, generator)
    elif scheme.endswith("truncated"):
        scale = deviation / TRUNCATED_DEVIATION
        nn.init.trunc_normal_(drawn, 0.0, scale, -2 * scale, 2 * scale, generator)
    else:
        nn.init.normal_(drawn, 0.0, deviation, generator)
    return drawn.to(device=weight.device, dtype=weight.dtype)


def fitting_scheme(layer: nn.Module, scheme: Scheme) -> tuple[Scheme, str]:
    """The scheme for a layer of a whole model, and why where it is another than wanted.

    Delta-orthogonal kernels exist for plain convolutions of odd size with at least as many outputs as inputs; other layers
    get orthogonal weights.
    """
    if scheme != "delta_orthogonal":
        return scheme, ""
    if not isinstance(layer, CONVOLUTIONS):
        return "orthogonal", "no convolution"
    if layer.groups != 1:
        return "orthogonal", "a convolution of groups has no delta-orthogonal kernel"
    if layer.out_channels < layer.in_channels:
        return "orthogonal", "fewer outputs than inputs: no kernel keeps every norm"
    if any(size % 2 == 0 for size in layer.kernel_size):
        return "orthogonal", "an even kernel has no middle"
    return scheme, ""


def require_scheme(scheme: str) -> None:
    """Refuse names that are none."""
    if scheme not in SCHEMES:
        raise SettingError(f"scheme must be one of {', '.join(SCHEMES)}", repr(scheme), "Pick one of them.")


def require_generator(generator: torch.Generator) -> None:
    """Refuse what would draw from the global random state, or on another device."""
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise SettingError(
            "generator must be a torch.Generator on the CPU",
            repr(generator),
            "torch.Generator().manual_seed(0)",
        )
