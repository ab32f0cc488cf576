r"""The trace of a map known by its products, from n of them.

tr(A) = sum_{i=1}^n e_i' A e_i: the i-th product with a unit vector gives the i-th column, of which e_i' takes the diagonal
entry. Without the transpose there is no number to add up: e_i A e_i is not defined for columns, and where software reads
the first product entry by entry, the sum is the diagonal as a vector of n numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, numbers, thin
from torchstone.linalg import FunctionMap, LinearMap, exact_trace, hutchinson_trace
from torchstone.objectives import Classification
from torchstone.operators import Hessian
from torchstone.specimen import Specimen

Trace = Callable[[LinearMap], float]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """All n unit vectors."""
    return experiment(scale, generator, exact_trace)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """All but the last one: without any assumption about A, n - 1 products do not fix the trace."""
    return experiment(scale, generator, lambda A: exact_trace(A) - float(A.to_dense()[-1, -1]))


def experiment(scale: Scale, generator: torch.Generator, trace: Trace) -> Evidence:
    """Three maps, of which only products are used, against the sums of their eigenvalues."""
    size, width = (300, 20) if scale is Scale.QUICK else (2000, 36)
    maps = {
        "not symmetric": low_rank_and_diagonal(size, generator),
        "Hessian of a network": network_hessian(width, generator),
        "one by one": FunctionMap(lambda x: -3 * x, (1, 1), torch.float64),
    }
    parts = []
    for name, A in maps.items():
        truth = eigenvalues(A.to_dense().detach(), symmetric=A.symmetric).sum()
        parts.append(
            Evidence.close(f"trace, {name}", trace(A), truth, relative=1e-9, note=f"n = {A.shape[0]}")
        )
    A = maps["not symmetric"]
    products, counted = counting(A)
    trace(counted)
    parts.append(Evidence.close("products spent over n", sum(products) / size, 1.0, absolute=0.0))
    without = sum_without_transpose(A)
    parts.append(
        Evidence.close(
            "numbers in the sum over e_i * (A e_i), the reading without a transpose",
            float(without.numel()),
            float(size),
            absolute=0.0,
            note="the diagonal, and not one number",
        )
    )
    return Evidence.all_of(*parts, figures=(partial_sums(A, generator),))


def low_rank_and_diagonal(size: int, generator: torch.Generator) -> LinearMap:
    """U V' + D with 5 columns in U and V: products in O(n), and no symmetry."""
    left, right = (torch.randn(size, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    diagonal = 1 + torch.rand(size, generator=generator, dtype=torch.float64)
    product = lambda X: left @ (right.T @ X) + diagonal[:, None] * X
    return FunctionMap(product, (size, size), torch.float64, block=True)


def network_hessian(width: int, generator: torch.Generator) -> Hessian:
    """The Hessian of a tanh network in float64; 663 parameters at width 20, 1767 at 36."""
    layer = lambda inside, outside: nn.utils.skip_init(nn.Linear, inside, outside, dtype=torch.float64)
    model = nn.Sequential(layer(8, width), nn.Tanh(), layer(width, width), nn.Tanh(), layer(width, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draws / parameter.shape[-1] ** 0.5)
    x = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=generator)
    return Hessian(Specimen(model, Classification(), (x, y), batch_size=40))


def eigenvalues(matrix: Tensor, symmetric: bool) -> Tensor:
    """Real parts; imaginary ones cancel in their sum."""
    return torch.linalg.eigvalsh(matrix) if symmetric else torch.linalg.eigvals(matrix).real


def counting(A: LinearMap) -> tuple[list[int], LinearMap]:
    """The same map, and a list of how many columns each product takes."""
    widths: list[int] = []

    def product(X: Tensor) -> Tensor:
        widths.append(X.shape[1])
        return A.matmat(X)

    return widths, FunctionMap(product, A.shape, A.dtype, block=True)


def sum_without_transpose(A: LinearMap) -> Tensor:
    """The sum over i of e_i * (A e_i), multiplied entry by entry."""
    eye = torch.eye(A.shape[0], dtype=A.dtype)
    return sum((e * A.matvec(e) for e in eye), torch.zeros(A.shape[0], dtype=A.dtype))


def partial_sums(A: LinearMap, generator: torch.Generator) -> Curve:
    """How the sum grows towards the trace, beside the running mean of Hutchinson's estimate."""
    n = A.shape[0]
    sums = A.to_dense().diagonal().cumsum(0)
    random = hutchinson_trace(A, probes=n, generator=generator).samples
    means = random.cumsum(0) / torch.arange(1, n + 1)
    kept = thin(n, 400)
    at = numbers(i + 1 for i in kept)
    return Curve(
        "Trace against products",
        Axis("products"),
        Axis("estimate of the trace"),
        (
            Line("sum over unit vectors", at, numbers(sums[kept])),
            Line("random signs, mean", at, numbers(means[kept])),
        ),
        (Marker("trace", float(sums[-1])),),
        caption="The sum over unit vectors is of no use before the last one and exact after it; random signs are near "
        "the trace early and never exact.",
    )


CLAIM = Claim(
    id="exact_trace_by_unit_vectors",
    theme=Theme.CURVATURE,
    title="The exact trace from n products",
    statement="The trace of a square map is the sum of e_i' A e_i over the n unit vectors, and so the sum of its "
    "eigenvalues, whatever A is.",
    source="Linear algebra: e_i' A e_i is the i-th diagonal entry.",
    assumptions=("All n unit vectors are used.",),
    refuted_by="a trace that differs from the sum of the eigenvalues by more than 1e-9 of it",
    run=run,
    counterexample=counterexample,
    rows=("H02",),
    errata=(
        Erratum(
            "E22",
            stated="tr(A) = sum_i e_i A e_i",
            correct="tr(A) = sum_i e_i' A e_i: the first e_i is transposed, otherwise the product is not defined",
        ),
    ),
)
