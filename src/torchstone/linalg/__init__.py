"""Matrix-free numerical linear algebra: linear maps known by their products, and routines on them."""

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.block_lanczos import BlockLanczos
from torchstone.linalg.conjugate_gradients import solve_cg
from torchstone.linalg.dense_map import DenseMap
from torchstone.linalg.diagonal import DiagonalEstimate, hutchinson_diagonal
from torchstone.linalg.eigen import Eigenpairs, ExtremeEigenpairs, extreme_eigenpairs, top_eigenpairs
from torchstone.linalg.function_map import FunctionMap
from torchstone.linalg.hutch_plus_plus import hutch_plus_plus
from torchstone.linalg.inverse import DampedMap, InverseMap
from torchstone.linalg.lanczos import Tridiagonalisation, lanczos
from torchstone.linalg.linear_map import LinearMap, require_square, require_symmetric
from torchstone.linalg.linear_solution import LinearSolution, Outcome
from torchstone.linalg.minres import solve_minres
from torchstone.linalg.orthonormalise import orthonormalise
from torchstone.linalg.outliers import OutlierCount, count_outliers
from torchstone.linalg.probe_variance import gaussian_variance, rademacher_variance
from torchstone.linalg.probes import Distribution, draw_probes
from torchstone.linalg.trace import TraceEstimate, exact_trace, hutchinson_trace

__all__ = [
    "BlockLanczos",
    "DampedMap",
    "DenseMap",
    "DiagonalEstimate",
    "Distribution",
    "Eigenpairs",
    "ExtremeEigenpairs",
    "FunctionMap",
    "InverseMap",
    "LinearMap",
    "LinearSolution",
    "Outcome",
    "OutlierCount",
    "TraceEstimate",
    "Tridiagonalisation",
    "as_linear_map",
    "count_outliers",
    "draw_probes",
    "exact_trace",
    "extreme_eigenpairs",
    "gaussian_variance",
    "hutch_plus_plus",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "lanczos",
    "orthonormalise",
    "rademacher_variance",
    "require_square",
    "require_symmetric",
    "solve_cg",
    "solve_minres",
    "top_eigenpairs",
]
