"""Stochastic Lanczos quadrature: the spectrum of a symmetric map as Gauss rules of random vectors see it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import spectral_density as smoothing
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.bootstrap import bootstrap_band
from torchstone.linalg.checkpoint import digest
from torchstone.linalg.eigen import Eigenpairs
from torchstone.linalg.finished_runs import FinishedRuns
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.function_trace import FunctionTrace
from torchstone.linalg.known_space import KnownSpace
from torchstone.linalg.lanczos_columns import Tridiagonal, lanczos_columns
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.probes import draw_probes
from torchstone.linalg.resumable import resumable
from torchstone.linalg.sampling import require_at_least, require_generator
from torchstone.linalg.spectral_density import SpectralCurve
from torchstone.linalg.trace import TraceEstimate

_AT_ONCE = 2**24  # numbers in the bases of the probes that run together


@dataclass(frozen=True)
class LanczosQuadrature:
    r"""The eigenvalues of a symmetric A (n, n) as a measure: known ones, and a Gauss rule a probe for the n - d others.

    (1/n) sum_i delta(lambda_i)  ~  (1/n) sum_known delta(lambda)
                                    + (n - d)/n mean_probes sum_j weights_j delta(nodes_j).

    Everything computed from it costs no further product.

    Attributes:
        size: n.
        nodes: Per probe (p, k), ascending, in float64. Rules that ended early repeat their last node with weight 0.
        weights: Of the nodes (p, k), each row adding up to 1.
        coarse_nodes: The same of rules with half the steps, by which the quadrature error is judged.
        coarse_weights: Their weights.
        complete: Per probe (p,), whether its Krylov space ended, so that its rule has no quadrature error.
        known: Eigenvalues (d,) that are exact atoms of weight 1/n, descending as given.
        steps: Lanczos steps asked for.
        products: Matrix-vector products spent.
        exact: Whether the nodes are all eigenvalues, from n products.
        rounding: The map's rounding error, relative to its norm.
        seed: Of the bootstrap.
    """

    size: int
    nodes: Float[Tensor, "p k"]
    weights: Float[Tensor, "p k"]
    coarse_nodes: Float[Tensor, "p c"]
    coarse_weights: Float[Tensor, "p c"]
    complete: Bool[Tensor, " p"]
    known: Float[Tensor, " d"]
    steps: int
    products: int
    exact: bool
    rounding: float
    seed: int

    @property
    def probes(self) -> int:
        """Number of random vectors; 0 where nothing is random."""
        return 0 if self.exact else self.nodes.shape[0]

    @property
    def support(self) -> tuple[float, float]:
        """Smallest and largest node or known eigenvalue: inside the spectrum, up to rounding."""
        every = torch.cat([self.nodes.flatten(), self.known])
        return float(every.min()), float(every.max())

    def trace_of(self, f: Callable[[Tensor], Tensor]) -> FunctionTrace:
        """The trace of f(A): sum_known f(lambda) + (n - d) mean_probes sum_j weights_j f(nodes_j).

        Unbiased up to the quadrature error, which is 0 for polynomials of degree below 2k.

        Args:
            f: Elementwise function of a float64 tensor.

        Raises:
            NumericalError: f is not finite at a node.
        """
        atoms = float(_values(f, self.known).sum())
        free = self.size - len(self.known)
        fine = atoms + free * (self.weights * _values(f, self.nodes)).sum(dim=1)
        if self.exact:
            return FunctionTrace(TraceEstimate.exactly(float(fine[0]), self.products), 0.0)
        coarse = atoms + free * (self.coarse_weights * _values(f, self.coarse_nodes)).sum(dim=1)
        return FunctionTrace(TraceEstimate.of(fine, self.products), abs(float((fine - coarse).mean())))

    def density(
        self,
        grid: Float[Tensor, " g"] | None = None,
        *,
        width: float | None = None,
        confidence: float = 0.95,
    ) -> SpectralCurve:
        """The spectral density, smoothed by a Gaussian kernel, with a bootstrap band over the probes.

        The band covers the error of the probes in the smoothed density; smoothing itself is not an error to it. One probe
        has no band. Known eigenvalues have the height 1 / (n width sqrt(2 pi)).

        Args:
            grid: Eigenvalues, ascending; by default 512 over the nodes and more about known ones outside.
            width: Standard deviation of the kernel; by default the nodes' range over the steps.
            confidence: Of the band, at each grid point.

        Raises:
            SettingError: A width that is not positive, or a confidence not between 0 and 1.
        """
        width = smoothing.default_width(self.nodes, self.steps) if width is None else width
        if not 0 < width < math.inf:
            raise SettingError("width must be positive", f"{width}", "Leave it out for the default.")
        grid = smoothing.default_grid(self.nodes, self.known, width) if grid is None else grid.double()
        smooth = lambda nodes, weights, _: smoothing.smoothed(nodes, weights, grid, width)
        curves = self._curves(smooth, smooth(self.known, self._atoms, 0))
        return self._with_band(grid, width, confidence, curves, curves, curves)

    def distribution(
        self, grid: Float[Tensor, " g"] | None = None, *, confidence: float = 0.95
    ) -> SpectralCurve:
        """The share of eigenvalues up to each grid point, not smoothed.

        The band covers the error of the probes (by bootstrap) and that of the quadrature: a Gauss rule puts the mass
        between two nodes onto them, and so fixes the distribution up to one weight either way.

        Args:
            grid: Eigenvalues, ascending; by default as for the density.
            confidence: Of the band, at each grid point.

        Raises:
            SettingError: A confidence not between 0 and 1.
        """
        if grid is None:
            width = smoothing.default_width(self.nodes, self.steps)
            grid = smoothing.default_grid(self.nodes, self.known, width)
        at = grid.double() + 10 * self.rounding * max(map(abs, self.support))  # nodes on the grid count
        atoms = smoothing.cumulative(self.known.sort().values, self._atoms, at)
        by = lambda shift: (
            lambda nodes, weights, complete: smoothing.cumulative(
                nodes, weights, at, 0 if complete else shift
            )
        )
        curves = [self._curves(by(shift), atoms) for shift in (0, -1, 1)]
        return self._with_band(grid, 0.0, confidence, *curves)

    @property
    def _atoms(self) -> Tensor:
        return torch.full_like(self.known, 1 / self.size)

    def _curves(self, curve: Callable[[Tensor, Tensor, bool], Tensor], atoms: Tensor) -> Tensor:
        """One curve a probe: the known part, and the share of the others."""
        share = 1 - len(self.known) / self.size
        rules = zip(self.nodes, self.weights, self.complete.tolist(), strict=True)
        return torch.stack([atoms + share * curve(*rule) for rule in rules])

    def _with_band(
        self, grid: Tensor, width: float, confidence: float, curves: Tensor, lower: Tensor, upper: Tensor
    ) -> SpectralCurve:
        values = curves.mean(dim=0)
        low = high = values
        if not self.exact:
            low, _ = bootstrap_band(lower, confidence, torch.Generator().manual_seed(self.seed))
            _, high = bootstrap_band(upper, confidence, torch.Generator().manual_seed(self.seed))
        return SpectralCurve(grid, values, low, high, width, confidence)


def _values(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    values = f(at)
    if not isinstance(values, Tensor) or values.shape != at.shape:
        came = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise SettingError(
            f"f takes and gives a tensor of one shape, here {tuple(at.shape)}", came, "Use torch functions."
        )
    bad = ~values.isfinite()
    if bool(bad.any()):
        raise NumericalError(
            "f must be finite on the spectrum",
            f"{values[bad][0]} at the eigenvalue estimate {float(at[bad][0]):.6g}",
            "Choose a function defined on the whole spectrum, or shift it: A + c I.",
        )
    return values.double()


def lanczos_quadrature(
    A: LinearMap | Any,
    *,
    probes: int = 10,
    steps: int = 64,
    generator: torch.Generator,
    known: Eigenpairs | None = None,
    block: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> LanczosQuadrature:
    r"""Gauss rules for the spectral measures of random unit vectors v, by Lanczos with full reorthogonalisation.

    With v = q_1 and the tridiagonal T = U Theta U^T of k steps, v^T f(A) v ~ sum_j U_1j^2 f(theta_j): the weights are the
    squared *first* components of T's eigenvectors. Exact for polynomials of degree up to 2k - 1. Uniform v on the
    sphere make n v^T f(A) v unbiased for tr f(A), with the variance 2n/(n + 2) (||f(A)||_F^2 - (tr f(A))^2 / n).

    Known eigenpairs are projected off the probes and added as exact atoms, so that a few outliers neither coarsen the
    default smoothing nor come and go between probes. They must be converged: their residuals are not looked at.

    Where probes >= n - d, all eigenvalues are computed from n products instead. (From probes * steps >= n on that is
    cheaper too; `trace_of_function` does so.)

    Cost: at most probes * steps products, `block` columns at a time, and 8 n k^2 flops a probe; memory (k + 3) vectors
    times `block`, or n^2 numbers if exact.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        probes: Number of random vectors, at least 1; the error bars need 2.
        steps: k, at least 2. Rules end early, and exact, where the Krylov space does.
        generator: Draws the vectors and the seed of the bootstrap.
        known: Eigenpairs of A, such as `top_eigenpairs` gives.
        block: Probes at once; by default as many as keep their bases within 2^24 numbers.
        checkpoint: A file that keeps the finished probes of a long run, `block` more at a time. A run with the same
            arguments and generator goes on from it to the same bits; it is deleted at the end.

    Raises:
        SettingError: Not symmetric, a count too small, known vectors that do not fit, or a checkpoint of another run.
        NumericalError: Products with NaN or Inf, or that are not symmetric.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.

    >>> A = torch.diag(torch.arange(1.0, 101, dtype=torch.float64))
    >>> rules = lanczos_quadrature(A, probes=20, steps=10, generator=torch.Generator().manual_seed(0))
    >>> abs(rules.trace_of(torch.log).value / 363.739 - 1) < 0.02
    True

    Source: Golub & Meurant 2010, Matrices, Moments and Quadrature, theorem 6.2; Ubaru, Chen & Saad 2017, SIAM J. Matrix
    Anal. Appl. 38(4); Ghorbani, Krishnan & Xiao 2019 for networks.
    """
    A = as_linear_map(A)
    require_symmetric(A, "lanczos_quadrature")
    require_generator(generator)
    require_at_least("probes", probes, 1)
    require_at_least("steps", steps, 2)
    if block is not None:
        require_at_least("block", block, 1)
    space = None if known is None else KnownSpace.of(A, known)
    begun = digest(generator.get_state())
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    if probes >= A.shape[0] - (0 if space is None else len(space.values)):
        with FinishedWork.of(checkpoint, "lanczos_quadrature, exactly", A, None) as finished:
            return exact_spectrum(resumable(A, finished), steps, seed)
    target, atoms, products = A, torch.empty(0, dtype=torch.float64), 0
    at_once = block or max(1, _AT_ONCE // (A.shape[0] * min(steps, A.shape[0])))
    held = "none" if known is None else digest(known.values)
    kept = FinishedRuns(
        checkpoint, A, {"probes": probes, "steps": steps, "block": at_once, "seed": begun, "known": held}
    )
    for done in range(0, probes, at_once):
        starts = draw_probes(A, min(at_once, probes - done), generator)
        if space is not None:
            starts = space.project(space.project(starts))
            if done == 0:
                target, atoms, products = space.complement(starts[:, 0]), space.values.double().cpu(), 1
        if done == 0 and kept.runs:
            kept.require_of(target, starts[:, 0])
        if done < len(kept.runs):  # drawn nevertheless, as what follows depends on it
            continue
        kept.add(lanczos_columns(target, starts, steps))
    fine, coarse, complete = [], [], []
    for run in kept.runs:
        count = len(run.diagonal)
        products += count
        complete.append(run.breakdown)
        fine.append(_gauss_rule(run, count))
        coarse.append(fine[-1] if run.breakdown else _gauss_rule(run, count // 2))
    kept.remove()
    rules = (*_padded(fine), *_padded(coarse), torch.tensor(complete))
    eps = torch.finfo(A.dtype).eps
    return LanczosQuadrature(A.shape[0], *rules, atoms, steps, products, False, eps, seed)


def exact_spectrum(A: LinearMap, steps: int, seed: int) -> LanczosQuadrature:
    """All eigenvalues, each with the weight 1/n. Cost: n products, n^2 memory and an eigendecomposition.

    Raises:
        NumericalError: Products that are not symmetric, by the tolerance of the Lanczos routines.
    """
    dense = A.to_dense().detach().double()
    asymmetry, size = float((dense - dense.T).abs().max()), float(dense.abs().max())
    if asymmetry > torch.finfo(A.dtype).eps ** 0.25 * size:
        raise NumericalError(
            f"{A} is declared symmetric",
            f"entries that differ from their transposes by {asymmetry / size:.2g} of the largest",
            "Correct the product, or pass the symmetric part (A + A.T) * 0.5.",
        )
    nodes = torch.linalg.eigvalsh((dense + dense.T) / 2).cpu()[None]
    rule = (nodes, torch.full_like(nodes, 1 / nodes.shape[1]))
    eps = torch.finfo(A.dtype).eps
    return LanczosQuadrature(
        A.shape[0], *rule, *rule, torch.tensor([True]), nodes[0, :0], steps, A.shape[0], True, eps, seed
    )


def _gauss_rule(run: Tridiagonal, count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the leading `count` steps."""
    nodes, vectors = torch.linalg.eigh(run.leading(count))
    return nodes, vectors[0].square()


def _padded(rules: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Rules of different lengths as rows: the last node again, with weight 0."""
    longest = max(len(nodes) for nodes, _ in rules)
    nodes = torch.stack([torch.cat([x, x[-1:].expand(longest - len(x))]) for x, _ in rules])
    weights = torch.stack([torch.nn.functional.pad(w, (0, longest - len(w))) for _, w in rules])
    return nodes, weights
