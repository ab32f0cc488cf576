r"""How unequal a random network's singular values are, and which networks keep them all at one.

J = W_L D_L ... W_1 D_1 with D_l = diag(phi'(h_l)), at criticality sigma_w^2 mu_1 = 1. In the limit of infinite width the
squared singular values have mean 1 and

    variance L (mu_2 / mu_1^2 - 1 - s_1),    mu_k = E[phi'(z)^(2k)],  z ~ N(0, q*),

s_1 = -1 for Gaussian and 0 for orthogonal weights. So it is L for Gaussian linear networks, 2 L with ReLU, L for orthogonal
ReLU networks and 0 for orthogonal linear ones; for tanh mu_2 / mu_1^2 - 1 = 8 q*^2 + O(q*^3), as small as wished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Bars, Curve, Histogram, Line, numbers
from torchstone.init.mean_field import Activation, expectation, second_moment, slope_second_moment

DEPTH = 6
NETWORKS = 5
# Isometry of deep networks: depth, and q* of the tanh network.
DEEP, Q = 100, 0.01

FreeTerm = Callable[[str], float]


@dataclass(frozen=True)
class Family:
    """Random networks of one activation and one kind of weights.

    Args:
        name: What they are called.
        phi: The activation.
        slope: Its derivative.
        kind: "gaussian" or "orthogonal".
        weight_variance: sigma_w^2, N times the variance of a weight.
        bias_variance: sigma_b^2.
        q: Variance of pre-activations.
    """

    name: str
    phi: Activation
    slope: Activation
    kind: str
    weight_variance: float = 1.0
    bias_variance: float = 0.0
    q: float = 1.0

    def variance(self, depth: int, s_1: float) -> float:
        """Predicted variance of the squared singular values over their squared mean."""
        mu_1, mu_2 = (
            expectation(lambda u, k=k: self.slope(self.q**0.5 * u).abs() ** (2 * k)) for k in (1, 2)
        )
        return depth * (mu_2 / mu_1**2 - 1 - s_1)


def rectified(h: Tensor) -> Tensor:
    """Derivative of ReLU."""
    return (h > 0).to(h.dtype)


def tanh_slope(h: Tensor) -> Tensor:
    """Derivative of tanh."""
    return 1 - torch.tanh(h).square()


def logistic_slope(h: Tensor) -> Tensor:
    """Derivative of the logistic sigmoid."""
    return torch.sigmoid(h) * (1 - torch.sigmoid(h))


def identity(h: Tensor) -> Tensor:
    """The identity."""
    return h


SHALLOW = (
    Family("Gaussian linear", identity, torch.ones_like, "gaussian"),
    Family("Gaussian ReLU", torch.relu, rectified, "gaussian", 2.0),
    Family("orthogonal ReLU", torch.relu, rectified, "orthogonal", 2.0),
)
LINEAR = Family("orthogonal linear", identity, torch.ones_like, "orthogonal")


def near_criticality(kind: str) -> Family:
    """Tanh networks on the edge of chaos with q* = Q: sigma_w just above 1."""
    weight = 1 / slope_second_moment(torch.tanh, Q)
    bias = Q - weight * second_moment(torch.tanh, Q)
    return Family(f"{kind} tanh", torch.tanh, tanh_slope, kind, weight, bias, Q)


def free_term(kind: str) -> float:
    """s_1, the first term of the S-transform of W W^T."""
    return {"gaussian": -1.0, "orthogonal": 0.0}[kind]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With each kind's own s_1."""
    return experiment(scale, generator, free_term)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """As if Gaussian weights were orthogonal: their own spread forgotten."""
    return experiment(scale, generator, lambda kind: 0.0 * free_term(kind))


def experiment(scale: Scale, generator: torch.Generator, s_1: FreeTerm) -> Evidence:
    """Spectra of shallow networks against the formula, and of networks of 100 layers."""
    width = 400 if scale is Scale.QUICK else 1000
    parts, bars = [], {}
    for family in SHALLOW:
        spectra = [squared_singular_values(family, width, DEPTH, generator) for _ in range(NETWORKS)]
        spreads = torch.stack([spread(values) for values in spectra])
        bars[family.name] = torch.cat(spectra)
        parts.append(
            Evidence.close(
                f"variance of the squared singular values, {family.name}, {DEPTH} layers",
                spreads.mean(),
                family.variance(DEPTH, s_1(family.kind)),
                relative=0.2,
                standard_error=float(spreads.std()) / NETWORKS**0.5,
                note="L (mu_2 / mu_1^2 - 1 - s_1)",
            )
        )
    # Isometry holds at every width, and its failures show at small ones too.
    exact = squared_singular_values(LINEAR, width // 4, DEEP, generator).sqrt()
    parts.append(
        Evidence.at_most(
            f"largest |s - 1|, {LINEAR.name}, {DEEP} layers", (exact - 1).abs().max(), 1e-10, "isometry"
        )
    )
    return Evidence.all_of(*parts, deep(width // 4, generator, s_1), figures=(histogram(bars),))


def deep(width: int, generator: torch.Generator, s_1: FreeTerm) -> Evidence:
    """100 layers: tanh near criticality reaches isometry with orthogonal weights only, ReLU and logistic never."""
    tanh, gaussian, relu = near_criticality("orthogonal"), near_criticality("gaussian"), SHALLOW[2]
    logistic = Family("orthogonal logistic", torch.sigmoid, logistic_slope, "orthogonal", 16.0)
    found = {
        family.name: squared_singular_values(family, width, DEEP, generator)
        for family in (tanh, gaussian, relu, logistic)
    }
    s = found[tanh.name].sqrt()
    near = float(((s > 0.5) & (s < 1.5)).double().mean())
    name = f"variance of the squared singular values, {{}}, {DEEP} layers"
    return Evidence.all_of(
        Evidence.close(
            name.format(tanh.name),
            spread(found[tanh.name]),
            tanh.variance(DEEP, s_1("orthogonal")),
            relative=0.3,
            note="over their squared mean",
        ),
        Evidence.at_least(f"share of singular values in (0.5, 1.5), {tanh.name}, {DEEP} layers", near, 0.95),
        *(
            Evidence.at_least(name.format(family.name), spread(found[family.name]), 10.0, "no isometry")
            for family in (gaussian, relu, logistic)
        ),
        figures=(curve(found),),
    )


def squared_singular_values(family: Family, width: int, depth: int, generator: torch.Generator) -> Tensor:
    """Of one random network's Jacobian at a random input, descending."""
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    h = family.q**0.5 * draw(width)
    jacobian = torch.eye(width, dtype=torch.float64)
    for _ in range(depth):
        weights = draw(width, width) / width**0.5
        if family.kind == "orthogonal":
            Q_, R = torch.linalg.qr(weights)
            weights = Q_ * R.diagonal().sign()  # uniform over the orthogonal group
        weights *= family.weight_variance**0.5
        jacobian = weights @ (family.slope(h)[:, None] * jacobian)
        h = weights @ family.phi(h) + family.bias_variance**0.5 * draw(width)
    return torch.linalg.svdvals(jacobian).square()


def spread(squared: Tensor) -> Tensor:
    """Variance over the squared mean."""
    return squared.var(correction=0) / squared.mean().square()


def histogram(spectra: dict[str, Tensor]) -> Histogram:
    """Squared singular values of the shallow networks."""
    edges = torch.linspace(-6, 2, 41, dtype=torch.float64)
    groups = []
    for name, values in spectra.items():
        counts = torch.histogram(values.clamp(min=1e-6).log10(), edges).hist
        groups.append(Bars(name, numbers(100 * counts / len(values))))
    return Histogram(
        f"Squared singular values of {DEPTH} layers",
        Axis("log10 of the squared singular value (below 1e-6 shown as 1e-6)"),
        numbers(edges),
        tuple(groups),
        caption="The mean is 1 in each. Most of it sits in few directions; with ReLU half of the directions or more are lost.",
        y=Axis("share", "%"),
    )


def curve(spectra: dict[str, Tensor]) -> Curve:
    """Singular values of the deep networks, largest first."""
    lines = []
    for name, squared in spectra.items():
        s = squared.sqrt().clamp(min=1e-6)
        lines.append(Line(name, numbers(100 * (i + 1) / len(s) for i in range(len(s))), numbers(s)))
    return Curve(
        f"Singular values of networks of {DEEP} layers",
        Axis("rank", "% of the width"),
        Axis("singular value (below 1e-6 shown as 1e-6)", log=True),
        tuple(lines),
        caption="A level line at 1 is dynamical isometry. Only orthogonal weights with tanh near criticality come close.",
    )


CLAIM = Claim(
    id="dynamical_isometry",
    theme=Theme.SIGNAL,
    title="Dynamical isometry",
    statement=(
        "At criticality the squared singular values of a wide random network's Jacobian have mean 1 and variance "
        "L (mu_2 / mu_1^2 - 1 - s_1): L for Gaussian linear, 2L for Gaussian ReLU, L for orthogonal ReLU networks. "
        "Orthogonal linear networks keep all of them at 1, orthogonal tanh networks near sigma_w = 1 nearly so."
    ),
    source="Saxe, McClelland & Ganguli 2014, section 3; Pennington, Schoenholz & Ganguli 2017, section 2.5 and table 1",
    assumptions=(
        "Networks are wide and random, of one width, at criticality.",
        "For isometry the activation is odd with slope 1 at 0, and q* is small.",
    ),
    refuted_by="a variance 20% from the formula at 6 layers, a singular value of an orthogonal linear network that is "
    f"1e-10 from 1, or a ReLU network of {DEEP} layers that comes near isometry",
    run=run,
    counterexample=counterexample,
    rows=("S05",),
    errata=(
        Erratum(
            "E25",
            stated="Orthogonal matrices with sigmoid activations reach dynamical isometry",
            correct="odd activations with slope 1 at 0 (tanh, hard tanh, erf) do, near sigma_w = 1 with small q*; the logistic "
            "sigmoid does not, and ReLU does not: its variance is L whatever the weights",
        ),
    ),
)
