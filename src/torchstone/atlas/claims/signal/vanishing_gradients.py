r"""Repeated products grow or vanish like a power: of the largest modulus of an eigenvalue, or of a layer's mean factor.

For a matrix A and a vector u with a component along the leading eigenspace,

    (1/L) log |A^L u| -> log rho(A),     rho(A) = max |lambda_i|,     with an error of order 1/L.

In a wide random tanh network with weight variance s_w^2 / width the squared norm of the back-propagated gradient changes
by the factor chi = s_w^2 E[phi'(z)^2] a layer, z ~ N(0, q*), q* the fixed point of the forward variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.init.mean_field import fixed_point, gradient_factor

LENGTH = 2000  # L
# A rotation by this angle times r has the eigenvalues r exp(+-i angle).
ANGLE = 1.0
# Weight and bias variance of the networks, one on each side of the edge of chaos.
NETWORKS = {"ordered": (1.2, 0.3), "chaotic": (16.0, 0.1)}
DEPTH = 30

Rate = Callable[[Tensor], float]


@dataclass(frozen=True)
class Matrix:
    """A matrix with known eigenvalues and a start vector with a component of order one in every eigenspace."""

    name: str
    a: Tensor
    eigenvalues: Tensor
    u: Tensor


def largest_modulus(eigenvalues: Tensor) -> float:
    """The spectral radius."""
    return float(eigenvalues.abs().max())


def largest_positive(eigenvalues: Tensor) -> float:
    """The largest real eigenvalue, which a careless reading of "lambda_1" takes."""
    return float(eigenvalues[eigenvalues.imag == 0].real.max())


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """By the largest modulus."""
    return experiment(scale, generator, largest_modulus)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """By the largest eigenvalue with its sign."""
    return experiment(scale, generator, largest_positive)


def experiment(scale: Scale, generator: torch.Generator, rate: Rate) -> Evidence:
    """Powers of three matrices, and gradients of random networks on both sides of the edge of chaos."""
    matrices = (
        matrix("negative leading eigenvalue", [-1.5, 1.2, 0.8, 0.3], 0.9, generator),
        matrix("complex leading pair", [0.5, -0.4, 0.3, 0.2], 0.7, generator),
        matrix("leading eigenvalue 1", [1.0, -0.8, 0.5, 0.1], 0.6, generator),
    )
    logs = {m.name: log_norms(m) for m in matrices}
    networks = 30 if scale is Scale.QUICK else 100
    width = 400 if scale is Scale.QUICK else 1000
    profiles = {name: gradient_profiles(*v, width, networks, generator) for name, v in NETWORKS.items()}
    parts = [
        Evidence.close(
            f"(1/L) log |A^L u| at L = {LENGTH}, {m.name}",
            logs[m.name][-1] / LENGTH,
            math.log(rate(m.eigenvalues)),
            absolute=1e-3,
            note="log of the largest modulus",
        )
        for m in matrices
    ]
    for name, (weight, bias) in NETWORKS.items():
        slopes = slope(profiles[name])
        parts.append(
            Evidence.close(
                f"log factor of the squared gradient a layer, {name} tanh network",
                slopes.mean(),
                log_chi(weight, bias),
                relative=0.05,
                standard_error=float(slopes.std()) / networks**0.5,
                note="log chi",
            )
        )
    return Evidence.all_of(
        *parts, figures=(power_curve(matrices, logs), layer_curve(profiles), table(matrices))
    )


def matrix(name: str, real: list[float], modulus: float, generator: torch.Generator) -> Matrix:
    """A non-normal 6 x 6 matrix with four real eigenvalues and a complex pair of the given modulus."""
    angles = torch.tensor([ANGLE, -ANGLE], dtype=torch.float64)
    pair = torch.polar(torch.full_like(angles, modulus), angles)
    c, s = modulus * math.cos(ANGLE), modulus * math.sin(ANGLE)
    rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    block = torch.block_diag(torch.diag(torch.tensor(real, dtype=torch.float64)), rotation)
    gaussian = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q
    basis = basis + 0.5 * basis[:, [1, 2, 3, 4, 5, 0]]  # columns no longer orthogonal: A is not normal
    signs = torch.randint(2, (6,), generator=generator) * 2 - 1
    weights = signs * (0.5 + torch.rand(6, generator=generator, dtype=torch.float64))
    eigenvalues = torch.cat([torch.tensor(real, dtype=torch.complex128), pair])
    return Matrix(name, basis @ block @ torch.linalg.inv(basis), eigenvalues, basis @ weights)


def log_norms(m: Matrix) -> Tensor:
    """Logarithms of |A^l u| for l = 1..L, rescaled at every step so that nothing overflows or underflows."""
    u, total, found = m.u, 0.0, []
    for _ in range(LENGTH):
        u = m.a @ u
        size = float(u.norm())
        u, total = u / size, total + math.log(size)
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


def log_chi(weight_variance: float, bias_variance: float) -> float:
    """Logarithm of chi at the fixed point q*."""
    q = fixed_point(torch.tanh, weight_variance, bias_variance)
    return math.log(gradient_factor(torch.tanh, q, weight_variance))


def gradient_profiles(
    weight_variance: float, bias_variance: float, width: int, networks: int, generator: torch.Generator
) -> Tensor:
    """Logarithm of the squared norm of the gradient in the pre-activations, (networks, DEPTH), first layer first."""
    q = fixed_point(torch.tanh, weight_variance, bias_variance)
    gaussian = lambda *shape: torch.randn(*shape, generator=generator)
    found = []
    for _ in range(networks):
        z = (q**0.5 * gaussian(width)).requires_grad_(True)  # the first layer, at the fixed point
        layers = [z]
        for _ in range(DEPTH - 1):
            weights = gaussian(width, width) * (weight_variance / width) ** 0.5
            layers.append(weights @ torch.tanh(layers[-1]) + bias_variance**0.5 * gaussian(width))
        readout = gaussian(width)
        gradients = torch.autograd.grad(layers[-1] @ readout, layers)
        found.append(torch.stack([gradient.double().square().sum().log() for gradient in gradients]))
    return torch.stack(found)


def slope(profiles: Tensor) -> Tensor:
    """Least-squares slope a layer towards the input, of every network."""
    back = torch.arange(DEPTH - 1, -1, -1, dtype=torch.float64)
    back = back - back.mean()
    return profiles @ back / back.square().sum()


def power_curve(matrices: tuple[Matrix, ...], logs: dict[str, Tensor]) -> Curve:
    """(1/l) log |A^l u| over l."""
    kept = thin(LENGTH, 500)
    lines = [
        Line(name, numbers(i + 1 for i in kept), numbers(found[i] / (i + 1) for i in kept))
        for name, found in logs.items()
    ]
    markers = [
        Marker(f"log {largest_modulus(m.eigenvalues):g}", math.log(largest_modulus(m.eigenvalues)))
        for m in matrices
    ]
    return Curve(
        "Growth rate of a matrix power",
        Axis("power L", log=True),
        Axis("(1/L) log |A^L u|"),
        tuple(lines),
        tuple(markers),
        caption="Each line settles at the log of the largest modulus among its matrix's eigenvalues.",
    )


def layer_curve(profiles: dict[str, Tensor]) -> Curve:
    """Gradient norm over the layers, measured and by chi."""
    layers, lines = numbers(range(1, DEPTH + 1)), []
    for name, found in profiles.items():
        mean, spread = found.mean(0), found.std(0)
        lines.append(
            Line(f"{name}, measured", layers, numbers(mean), numbers(mean - spread), numbers(mean + spread))
        )
        line = [float(mean[-1]) + log_chi(*NETWORKS[name]) * (DEPTH - layer) for layer in layers]
        lines.append(Line(f"{name}, theory", layers, numbers(line)))
    return Curve(
        "Gradient of random tanh networks, layer by layer",
        Axis("layer (1 is next to the input)"),
        Axis("log of the squared gradient norm"),
        tuple(lines),
        caption="Band: one standard deviation over networks. The gradient changes by chi a layer: it vanishes towards the "
        "input below the edge of chaos and explodes above it.",
    )


def table(matrices: tuple[Matrix, ...]) -> Table:
    """What becomes of the norm without rescaling."""
    rows = []
    for m in matrices:
        u = m.u
        for _ in range(LENGTH):
            u = m.a @ u
        rows.append(
            (m.name, largest_modulus(m.eigenvalues), largest_positive(m.eigenvalues), float(u.norm()))
        )
    columns = ("matrix", "largest modulus", "largest real eigenvalue", f"|A^{LENGTH} u| in double precision")
    return Table("Powers without rescaling", columns, tuple(rows))


CLAIM = Claim(
    id="vanishing_gradients",
    theme=Theme.SIGNAL,
    title="Vanishing and exploding gradients",
    statement=(
        "|A^L u| grows or vanishes like the L-th power of the largest modulus of A's eigenvalues, and the gradient of a "
        "wide random tanh network changes by the factor chi a layer."
    ),
    source="Bengio, Simard & Frasconi 1994, section 4; Pascanu, Mikolov & Bengio 2013, section 2.1; "
    "Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, section 4",
    assumptions=(
        "u has a component of order one in the leading eigenspace.",
        "Networks are wide and random, and their first layer has the fixed-point variance.",
    ),
    refuted_by="a rate that differs from log rho(A) by more than 1e-3 at L = 2000, or from log chi by more than 5%",
    run=run,
    counterexample=counterexample,
    rows=("S06",),
    errata=(
        Erratum(
            "E26",
            stated="The product vanishes if lambda_1 < 1 and grows if lambda_1 > 1",
            correct="the largest modulus decides, rho(A) = max |lambda_i|: an eigenvalue of -1.5 makes it grow",
        ),
    ),
)
