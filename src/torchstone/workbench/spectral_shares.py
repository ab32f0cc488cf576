"""How many eigenvalues lie where, as far as a quadrature of the spectrum can tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.details import Scalar
from torchstone.linalg import LanczosQuadrature, lanczos

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Count:
    """A number of eigenvalues with an interval; a point where all eigenvalues are known."""

    value: float
    low: float
    high: float


def count_where(quadrature: LanczosQuadrature, test: Callable[[Tensor], Tensor]) -> Count:
    r"""The number of eigenvalues that satisfy a test, such as being negative.

    A Gauss rule puts the mass between its nodes onto them, so a count jumps whenever a node crosses the edge of the test.
    The rules of the last third of the Lanczos steps are therefore all asked: their mean is the value, and the interval is
    Student's t interval over the probes, wider on both sides by how far they disagree.

    Cost: no product; an eigendecomposition of a small tridiagonal matrix a step and probe.

    Args:
        quadrature: The spectrum.
        test: Elementwise, on a float64 tensor; gives booleans.
    """
    atoms = float(test(quadrature.known).sum())
    if quadrature.exact:
        value = float(test(quadrature.nodes).sum())
        return Count(value, value, value)
    free = quadrature.size - len(quadrature.known)
    rows = zip(quadrature.nodes, quadrature.weights, strict=True)
    shares = [_shares_by_step(nodes[weights > 0], weights[weights > 0], test) for nodes, weights in rows]
    values = torch.tensor([float(share.mean()) for share in shares], dtype=torch.float64)
    disagreement = sum(float(share.max() - share.min()) for share in shares) / len(shares)
    reach = _student(values) + disagreement
    mean = float(values.mean())
    low, high = (atoms + free * min(1.0, max(0.0, end)) for end in (mean - reach, mean + reach))
    return Count(atoms + free * mean, low, high)


def _shares_by_step(
    nodes: Float[Tensor, " k"], weights: Float[Tensor, " k"], test: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mass of the test by the Gauss rules of two thirds of the steps, one more, ... and all of them."""
    # Lanczos on the rule itself gives back the tridiagonal matrix that it came from, and so the rules of fewer steps.
    matrix = lanczos(torch.diag(nodes), len(nodes), start=weights.sqrt()).tridiagonal
    found = []
    for steps in range(max(1, 2 * len(matrix) // 3), len(matrix) + 1):
        values, vectors = torch.linalg.eigh(matrix[:steps, :steps])
        found.append((vectors[0].square() * test(values)).sum())
    return torch.stack(found)


def _student(values: Float[Tensor, " p"]) -> float:
    """Half of Student's t interval for the mean; infinite for a single value."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return math.inf
    quantile = float(stdtrit(len(values) - 1, (1 + _CONFIDENCE) / 2))
    return quantile * float(values.std()) / math.sqrt(len(values))


@dataclass(frozen=True)
class Shares:
    """Shares of the eigenvalues by sign, with intervals; zero up to `resolution` times the largest in magnitude."""

    negative: Scalar
    zero: Scalar
    positive: Scalar
    resolution: float


def shares_by_sign(quadrature: LanczosQuadrature, resolution: float) -> Shares:
    """Shares of negative, zero and positive eigenvalues of a spectrum known by quadrature.

    Args:
        quadrature: The spectrum.
        resolution: What counts as zero, relative to the largest eigenvalue in magnitude.
    """
    reach, size = resolution * max(map(abs, quadrature.support)), quadrature.size
    below, above = (count_where(quadrature, test) for test in (lambda x: x < -reach, lambda x: x > reach))
    # What is left between two edges is as uncertain as both of them.
    left = Count(
        size - below.value - above.value,
        max(0.0, size - below.high - above.high),
        size - below.low - above.low,
    )

    def share(name: str, count: Count) -> Scalar:
        return Scalar(f"share of {name}", count.value / size, "", count.low / size, count.high / size)

    return Shares(
        share("negative eigenvalues", below),
        share("eigenvalues that are zero", left),
        share("positive eigenvalues", above),
        resolution,
    )
