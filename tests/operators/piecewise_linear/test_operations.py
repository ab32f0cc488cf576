"""Each operation by itself is exact where it is piecewise linear, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.operators import curved_parameters

Traces = Callable[[Tensor, Mapping[str, Tensor]], dict[str, tuple[float, float]]]
Never = Callable[[Tensor, Mapping[str, Tensor]], dict[str, str]]

SIZE = 6
weight_norm: Any = vars(torch)["_weight_norm"]  # what torch.nn.utils.parametrizations.weight_norm calls


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Of h (4, 6), which depends linearly on one parameter.
PIECEWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky relu": lambda h: F.leaky_relu(h, 0.2),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda h: F.threshold(h, 0.1, -2.0),
    "abs": torch.abs,
    "clamp": lambda h: h.clamp(-0.5, 0.5),
    "clamp by itself": lambda h: torch.clamp(h, h.flip(1) - 1, h.roll(1, 1) + 1),
    "maximum": lambda h: torch.maximum(h, -h),
    "minimum": lambda h: torch.minimum(h, h.flip(1)),
    "max": lambda h: h.max(1).values,
    "max of all": lambda h: h.max(),
    "amin": lambda h: h.amin(1),
    "sort": lambda h: h.sort(1).values * randn(SIZE),
    "topk": lambda h: h.topk(2, 1).values,
    "kthvalue": lambda h: h.kthvalue(2, 1).values,
    "median": lambda h: h.median(1).values,
    "cummax": lambda h: h.cummax(1).values,
    "max pool": lambda h: F.max_pool1d(h[:, None], 2),
    "max pool 2d": lambda h: F.max_pool2d(h.reshape(1, 1, 4, 6), 2),
    "max pool 3d": lambda h: F.max_pool3d(h.reshape(1, 1, 2, 2, 6), 2),
    "adaptive max pool": lambda h: F.adaptive_max_pool2d(h.reshape(1, 1, 4, 6), 2),
    "avg pool": lambda h: F.avg_pool2d(h.reshape(1, 1, 4, 6), 2),
    "adaptive avg pool": lambda h: F.adaptive_avg_pool2d(h.reshape(1, 1, 4, 6), (3, 4)),
    "interpolate": lambda h: F.interpolate(h.reshape(1, 1, 4, 6), scale_factor=2, mode="bilinear"),
    "nearest": lambda h: F.interpolate(h.reshape(1, 1, 4, 6), scale_factor=2),
    "reflect": lambda h: F.pad(h.reshape(1, 1, 4, 6), (1, 1, 1, 1), mode="reflect"),
    "pad": lambda h: F.pad(h, (1, 2)),
    "where": lambda h: torch.where(h > 0, 2 * h, h.roll(1, 0)),
    "masked fill": lambda h: h.masked_fill(h > 0.5, 3.0),
    "index": lambda h: h[:, [0, 2, 2]],
    "mask": lambda h: h[h > 0],
    "gather": lambda h: h.gather(1, torch.zeros(4, 1, dtype=torch.long)),
    "cat": lambda h: torch.cat([h, h.flip(0), 2 * h], 1),
    "stack and sum": lambda h: torch.stack([h, h.roll(2, 1)]).sum(0),
    "split": lambda h: h.split(2, 1)[1] - h.chunk(3, 1)[0],
    "unbind": lambda h: h.unbind(1)[0] + h.unbind(0)[1][:4],
    "mean": lambda h: h.mean(0),
    "cumsum": lambda h: h.cumsum(1),
    "constant factor": lambda h: h * randn(SIZE) / 3.0 - 1,
    "by a constant": lambda h: h / randn(SIZE).exp(),
    "constant matrix": lambda h: h @ randn(SIZE, 3) + 1,
    "einsum": lambda h: torch.einsum("nd,dk->kn", h, randn(SIZE, 3)),
    "conv": lambda h: F.conv1d(h[:, None], randn(2, 1, 3), randn(2)),
    "conv transpose": lambda h: F.conv_transpose1d(h[:, None], randn(1, 2, 3)),
    "unfold": lambda h: F.unfold(h.reshape(1, 1, 4, 6), 2),
    "tensor unfold": lambda h: h.unfold(1, 3, 2),
    "fold": lambda h: F.fold(h.reshape(1, 4, 6), (3, 4), (2, 2)),
    "batch norm, stored": lambda h: F.batch_norm(h, randn(6), randn(6).exp(), randn(6), randn(6)),
    "permuted views": lambda h: h.T.reshape(3, 8).unsqueeze(1).squeeze(1).flip(0).roll(1, 0),
    "expand and repeat": lambda h: h[:, None].expand(4, 2, 6) + h.repeat(1, 2).reshape(4, 2, 6),
    "tril and diagonal": lambda h: h[:, :4].tril().diagonal() + h[:, :4].triu().trace(),
    "diag embed": lambda h: torch.diag_embed(h),
    "scatter add": lambda h: torch.zeros(4, 2, dtype=h.dtype).scatter_add(
        1, torch.ones(4, 6, dtype=torch.long), h
    ),
    "index add": lambda h: torch.zeros(2, 6, dtype=h.dtype).index_add(0, torch.tensor([0, 1, 1, 0]), h),
    "index put": lambda h: torch.zeros(4, 6, dtype=h.dtype).index_put((torch.tensor([1, 3]),), h[:2]),
    "lerp": lambda h: torch.lerp(h, h.flip(1), 0.3),
    "cast": lambda h: h.to(torch.float32).double(),
    "copy": lambda h: torch.zeros(4, 6, dtype=h.dtype).copy_(h),
    "in place": lambda h: torch.relu_(h.clone().mul_(2.0).add_(1.0)),
    "pixel shuffle": lambda h: F.pixel_shuffle(h.reshape(1, 4, 2, 3), 2),
    "channel shuffle": lambda h: F.channel_shuffle(h.reshape(1, 4, 2, 3), 2),
    "dropout": lambda h: h * (randn(4, 6) > 0) / 0.5,
    "grid sample": lambda h: F.grid_sample(
        h.reshape(1, 1, 4, 6), randn(1, 3, 3, 2).tanh(), align_corners=False
    ),
    "addcmul of constants": lambda h: torch.addcmul(randn(4, 6), h, randn(4, 6)),
    "detached square": lambda h: h * h.detach(),
    "prelu": lambda h: F.prelu(h, randn(6).abs()),
    "negated reversed subtraction": lambda h: -(1 - h),
    "neg, rot90": lambda h: torch.rot90(-h),
}


CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "exp": torch.exp,
    "square": torch.square,
    "power": lambda h: h**3,
    "itself twice": lambda h: h * h,
    "itself shifted": lambda h: h * h.roll(1, 1),
    "matrix square": lambda h: h @ h.T,
    "batched square": lambda h: torch.bmm(h[None], h.T[None]),
    "addmm": lambda h: torch.addmm(torch.zeros(4, 4).double(), h, h.T),
    "baddbmm": lambda h: torch.baddbmm(torch.zeros(1, 4, 4).double(), h[None], h.T[None]),
    "dot": lambda h: torch.dot(h[0], h[1]),
    "bilinear": lambda h: F.bilinear(h, h, randn(2, 6, 6)),
    "addcmul": lambda h: torch.addcmul(randn(4, 6), h, h),
    "conv with itself": lambda h: F.conv1d(h[:1, None], h[:1, None, :3]),
    "divided by": lambda h: 1 / (2 + h.square().detach() + h),
    "reciprocal": lambda h: torch.reciprocal(h + 9),
    "softmax": lambda h: h.softmax(1),
    "log softmax": lambda h: h.log_softmax(1),
    "logsumexp": lambda h: h.logsumexp(1),
    "layer norm": lambda h: F.layer_norm(h, (6,)),
    "group norm": lambda h: F.group_norm(h, 2),
    "batch norm, of the batch": lambda h: F.batch_norm(h, None, None, training=True),
    "instance norm": lambda h: F.instance_norm(h[None]),
    "rms norm": lambda h: F.rms_norm(h, (6,)),
    "normalise": lambda h: F.normalize(h, dim=1),
    "norm": lambda h: h.norm(dim=1),
    "variance": lambda h: h.var(1),
    "product": lambda h: h.prod(1),
    "cumulative product": lambda h: h.cumprod(1),
    "glu": lambda h: F.glu(h, 1),
    "attention": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None]),
    "complex modulus": lambda h: torch.complex(h, h.flip(1) + 1).abs(),
    "modulus after a cast": lambda h: (h.to(torch.complex128) * (1 + 2j) + 3j).abs(),
    "fourier modulus": lambda h: torch.fft.rfft(h).abs(),
    "sampling positions": lambda h: F.grid_sample(
        randn(1, 1, 9, 9), 0.1 * h[:2, :2].reshape(1, 2, 1, 2), align_corners=False
    ),
    "cdist": lambda h: torch.cdist(h, randn(3, 6)),
    "lerp by itself": lambda h: torch.lerp(h, h.flip(1), h),
    "determinant": lambda h: torch.linalg.det(h[:, :4]),
    "weight norm": lambda h: weight_norm(h, randn(4, 1), 0),
    "written into a view": lambda h: _written(h),
    "embedding scaled by counts": lambda h: F.embedding(
        torch.tensor([[0, 1], [1, 2]]), h, scale_grad_by_freq=True
    ),
}


def _written(h: Tensor) -> Tensor:
    made = h.clone()
    made[:, 0] *= h[:, 1]
    return made


def on_one_parameter(operation: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    parameter = randn(24, seed=3).requires_grad_(True)
    hidden = (randn(24, 24, seed=4) @ parameter).reshape(4, 6)
    return operation(hidden).double(), {"p": parameter}


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_operations_are_exact(name: str, assert_never_wrong: Never) -> None:
    outputs, parameters = on_one_parameter(PIECEWISE[name])
    assert assert_never_wrong(outputs, parameters) == {}


@pytest.mark.parametrize("name", CURVED)
def test_other_operations_are_not(name: str) -> None:
    outputs, parameters = on_one_parameter(CURVED[name])
    assert "p" in curved_parameters(outputs, outputs.sum(), parameters)


@pytest.mark.parametrize("name", sorted(set(CURVED) - {"embedding scaled by counts", "cdist"}))
def test_their_hessian_indeed_differs(name: str, diagonal_traces: Traces) -> None:
    """So that the list above is not merely what the rules happen to say."""
    outputs, parameters = on_one_parameter(CURVED[name])
    hessian, gauss_newton = diagonal_traces(outputs, parameters)["p"]
    assert abs(hessian - gauss_newton) > 1e-6 * abs(gauss_newton)
