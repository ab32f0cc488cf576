"""Matrix-free numerical linear algebra: linear maps known by their products, and routines on them."""

from torchstone.linalg.adaptive_trace import trace
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.block_diagonal import BlockDiagonalMap
from torchstone.linalg.block_lanczos import BlockLanczos
from torchstone.linalg.condition_number import Conditioning, ConditionNumber, condition_number
from torchstone.linalg.conjugate_gradients import solve_cg
from torchstone.linalg.dense_map import DenseMap
from torchstone.linalg.diagonal import DiagonalEstimate, hutchinson_diagonal
from torchstone.linalg.eigen import Eigenpairs, ExtremeEigenpairs, extreme_eigenpairs, top_eigenpairs
from torchstone.linalg.frobenius_norm import FrobeniusEstimate, frobenius_norm
from torchstone.linalg.function_map import FunctionMap
from torchstone.linalg.function_trace import FunctionTrace
from torchstone.linalg.golub_kahan import Bidiagonalisation, GolubKahan, golub_kahan
from torchstone.linalg.hutch_plus_plus import hutch_plus_plus
from torchstone.linalg.inverse import DampedMap, InverseMap
from torchstone.linalg.lanczos import Tridiagonalisation, lanczos
from torchstone.linalg.linear_map import LinearMap, require_square, require_symmetric
from torchstone.linalg.linear_solution import LinearSolution, Outcome
from torchstone.linalg.minres import solve_minres
from torchstone.linalg.orthonormalise import orthonormalise
from torchstone.linalg.outliers import OutlierCount, count_outliers
from torchstone.linalg.probe_count import hanson_wright_reach, probe_count
from torchstone.linalg.probe_variance import gaussian_variance, rademacher_variance
from torchstone.linalg.probes import Distribution, draw_probes
from torchstone.linalg.randomised_svd import LowRank, randomised_svd
from torchstone.linalg.restriction import restricted
from torchstone.linalg.resumable import ResumableMap
from torchstone.linalg.singular_triplets import SingularTriplets, singular_triplets, singular_values
from torchstone.linalg.slq import LanczosQuadrature, lanczos_quadrature
from torchstone.linalg.spectral_density import SpectralCurve
from torchstone.linalg.trace import TraceEstimate, exact_trace, hutchinson_trace
from torchstone.linalg.trace_of_function import log_determinant, trace_of_function
from torchstone.linalg.xdiag import xdiag
from torchstone.linalg.xtrace import xtrace

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
    "FrobeniusEstimate",
    "FunctionMap",
    "FunctionTrace",
    "GolubKahan",
    "InverseMap",
    "LanczosQuadrature",
    "LinearMap",
    "LinearSolution",
    "LowRank",
    "Outcome",
    "OutlierCount",
    "ResumableMap",
    "SingularTriplets",
    "SpectralCurve",
    "TraceEstimate",
    "Tridiagonalisation",
    "as_linear_map",
    "condition_number",
    "count_outliers",
    "draw_probes",
    "exact_trace",
    "extreme_eigenpairs",
    "frobenius_norm",
    "gaussian_variance",
    "golub_kahan",
    "hanson_wright_reach",
    "hutch_plus_plus",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "lanczos",
    "lanczos_quadrature",
    "log_determinant",
    "orthonormalise",
    "probe_count",
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
    "trace",
    "trace_of_function",
    "xdiag",
    "xtrace",
]
