"""Matrix-free numerical linear algebra: linear maps known by their products, and routines on them."""

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.block_diagonal import BlockDiagonalMap
from torchstone.linalg.block_lanczos import BlockLanczos
from torchstone.linalg.condition_number import Conditioning, ConditionNumber, condition_number
from torchstone.linalg.conjugate_gradients import solve_cg
from torchstone.linalg.dense_map import DenseMap
from torchstone.linalg.diagonal import DiagonalEstimate, hutchinson_diagonal
from torchstone.linalg.eigen import Eigenpairs, ExtremeEigenpairs, extreme_eigenpairs, top_eigenpairs
from torchstone.linalg.function_map import FunctionMap
from torchstone.linalg.golub_kahan import Bidiagonalisation, GolubKahan, golub_kahan
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
from torchstone.linalg.randomised_svd import LowRank, randomised_svd
from torchstone.linalg.restriction import restricted
from torchstone.linalg.singular_triplets import SingularTriplets, singular_triplets, singular_values
from torchstone.linalg.trace import TraceEstimate, exact_trace, hutchinson_trace

__all__ = [
    "Bidiagonalisation",
    "BlockDiagonalMap",
    "BlockLanczos",
    "ConditionNumber",
    "Conditioning",
    "DampedMap",
    "DenseMap",
    "DiagonalEstimate",
    "Distribution",
    "Eigenpairs",
    "ExtremeEigenpairs",
    "FunctionMap",
    "GolubKahan",
    "InverseMap",
    "LinearMap",
    "LinearSolution",
    "LowRank",
    "Outcome",
    "OutlierCount",
    "SingularTriplets",
    "TraceEstimate",
    "Tridiagonalisation",
    "as_linear_map",
    "condition_number",
    "count_outliers",
    "draw_probes",
    "exact_trace",
    "extreme_eigenpairs",
    "gaussian_variance",
    "golub_kahan",
    "hutch_plus_plus",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "lanczos",
    "orthonormalise",
    "rademacher_variance",
    "randomised_svd",
    "require_square",
    "require_symmetric",
    "restricted",
    "singular_triplets",
    "singular_values",
    "solve_cg",
    "solve_minres",
    "top_eigenpairs",
]
