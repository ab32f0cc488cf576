r"""Weight normalisation beyond PyTorch's parametrisation: its data-dependent start, and mean-only batch normalisation.

PyTorch's own `torch.nn.utils.parametrizations.weight_norm` writes a weight as w = g v / |v|, one g a unit (dim=0). It
normalises weights, not inputs. As w does not depend on |v|, its gradient in v is orthogonal to v,

    grad_v L = (g / |v|) (I - v v^T / |v|^2) grad_w L,        <v, grad_v L> = 0,

so a step of gradient descent never makes v shorter: |v - eta grad_v|^2 = |v|^2 + eta^2 |grad_v|^2.
Source: Salimans & Kingma 2016, eqs. (2) to (4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.errors import NumericalError, SettingError
from torchstone.init.fans import TRANSPOSED, WEIGHTED
from torchstone.init.forward import Call, forward_once, plain_call


class MeanOnlyBatchNorm(nn.Module):
    """Subtracts each channel's mean over the batch and adds a learned shift; the scale is left to weight normalisation.

    In training x - mean_B(x) + b, and the gradient loses its mean over the batch; in evaluation x - running mean + b.
    The noise of the means is nearly Gaussian and mild, and no variance is divided by.

    Args:
        features: Channels C.
        momentum: Weight of the newest batch in the running mean, in (0, 1].
        affine: Whether the shift is learned.

    Shape: (N, C, ...) to the same.

    Raises:
        SettingError: A setting out of range; in the forward pass, a wrong number of channels.

    >>> layer = MeanOnlyBatchNorm(2)
    >>> layer(torch.tensor([[1.0, 0.0], [3.0, 8.0]])).detach()
    tensor([[-1., -4.],
            [ 1.,  4.]])

    Source: Salimans & Kingma 2016, section 4, eq. (8).
    """

    running_mean: Tensor

    def __init__(self, features: int, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__()
        if features < 1 or not 0 < momentum <= 1:
            raise SettingError(
                "MeanOnlyBatchNorm needs features >= 1 and 0 < momentum <= 1",
                f"features={features}, momentum={momentum}",
                "Correct the setting.",
            )
        self.features, self.momentum = features, momentum
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Centre (N, C, ...)."""
        if x.ndim < 2 or x.shape[1] != self.features:
            raise SettingError(
                f"MeanOnlyBatchNorm({self.features}) takes (N, {self.features}, ...)",
                f"shape {tuple(x.shape)}",
                "Reshape it.",
            )
        shape = (1, self.features) + (1,) * (x.ndim - 2)
        mean = self.running_mean.to(x.dtype)
        if self.training and x.numel():
            mean = x.mean([0, *range(2, x.ndim)])
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        shift = -mean if self.bias is None else self.bias.to(x.dtype) - mean
        return x + shift.view(shape)

    def extra_repr(self) -> str:
        """Settings, for print(model)."""
        return f"{self.features}, momentum={self.momentum:g}"


@torch.no_grad()
def weight_norm_data_init(
    model: nn.Module,
    batch: Any,
    *,
    call: Call = plain_call,
) -> list[str]:
    r"""Start every weight-normalised layer so that each of its units has mean 0 and variance 1 on a batch.

    In order of execution, with t = v x / |v| the unit's outputs for g = 1 and no bias: g = 1 / std(t), b = -mean(t) / std(t).
    v is left as it is. A layer that runs several times is set by its first run. Layers behind are set with the ones before
    already in place.

    Cost: one forward pass.

    Args:
        model: Changed in place: g and biases of layers with `torch.nn.utils.parametrizations.weight_norm`, nothing else.
        batch: Real data.
        call: How the model takes a batch.

    Returns:
        Names of the layers that were set.

    Raises:
        SettingError: No such layer runs, or one without a bias or with another dim than 0.
        NumericalError: A unit whose outputs do not vary on the batch.

    Source: Salimans & Kingma 2016, section 3, eqs. (5) and (6).
    """
    names = {module: name for name, module in model.named_modules() if _is_weight_normed(module)}
    done: list[str] = []

    def start(layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if names[layer] in done:
            return None
        done.append(names[layer])
        return _set_unit_variance(layer, names[layer], output)

    handles = [module.register_forward_hook(start) for module in names]
    try:
        forward_once(model, batch, call)
    finally:
        for handle in handles:
            handle.remove()
    if not done:
        raise SettingError(
            "The model must run layers with torch.nn.utils.parametrizations.weight_norm",
            "none",
            "Apply weight_norm to its linear and convolution layers first.",
        )
    return done


def _is_weight_normed(module: nn.Module) -> bool:
    if not (isinstance(module, WEIGHTED) and parametrize.is_parametrized(module, "weight")):
        return False
    parametrisations: Any = module.parametrizations
    return any(type(one).__name__ == "_WeightNorm" for one in parametrisations["weight"])


def _set_unit_variance(layer: nn.Module, name: str, output: Tensor) -> Tensor:
    """Divide g t + b by its deviation, centred: g and b take it over; returns the layer's new outputs."""
    parametrisations: Any = layer.parametrizations
    weight, bias = parametrisations["weight"], layer.bias
    by_unit = weight[0].dim in (0, -weight.original1.ndim) and not isinstance(layer, TRANSPOSED)
    if not isinstance(bias, Tensor) or not by_unit:
        raise SettingError(
            "Data-dependent initialisation needs a bias and one g a unit: weight_norm with dim=0, no transposed layer",
            f"{name or 'a layer'} with {'a' if isinstance(bias, Tensor) else 'no'} bias, dim={weight[0].dim}",
            "Give the layer a bias and leave dim at 0.",
        )
    axis = -1 if isinstance(layer, nn.Linear) else 1
    rows = output.double().movedim(axis, 0)
    flat = rows.reshape(len(rows), -1)
    deviation, mean = flat.std(1, unbiased=False), flat.mean(1)
    gains = weight.original0
    # What rounding leaves of a constant is no variation.
    if not bool((deviation > 1e-6 * flat.abs().amax(1)).all()):
        raise NumericalError(
            f"Every unit of {name or 'the layer'} must vary on the batch",
            f"a smallest standard deviation of {float(deviation.min()):.3g}",
            "Pass a larger batch.",
        )
    gains.copy_((gains.double().flatten() / deviation).view_as(gains))
    bias.copy_((bias.double() - mean) / deviation)
    return ((flat - mean[:, None]) / deviation[:, None]).view_as(rows).movedim(0, axis).to(output.dtype)
