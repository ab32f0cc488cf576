"""Curvature of a specimen's risk and Jacobians of its network, as linear maps and traces."""

from torchstone.operators.block_diagonal import BlockDiagonal, PrincipalBlock, per_layer
from torchstone.operators.dual_spectrum import DualSpectrum, dual_eigenpairs
from torchstone.operators.fisher import Fisher
from torchstone.operators.gauss_newton import GaussNewton
from torchstone.operators.gauss_newton_trace import GaussNewtonTrace, gauss_newton_trace
from torchstone.operators.gradient_covariance import GradientCovariance
from torchstone.operators.gradient_gram import GradientGram, gradient_gram
from torchstone.operators.gradient_norms import GradientNorms, gradient_norms
from torchstone.operators.hessian import Hessian
from torchstone.operators.input_jacobian import InputJacobian
from torchstone.operators.inverse import CurvatureInverse, inverse
from torchstone.operators.jacobian import ParameterJacobian
from torchstone.operators.kfac import KroneckerCurvature
from torchstone.operators.layer_jacobian import LayerJacobian
from torchstone.operators.ntk import TangentKernel, ntk, ntk_plan
from torchstone.operators.ntk_map import NTKMap
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.piecewise_linear import curved_parameters
from torchstone.operators.trace import ParameterTrace, TraceResult, hessian_trace

__all__ = [
    "BlockDiagonal",
    "CurvatureInverse",
    "DualSpectrum",
    "Fisher",
    "GaussNewton",
    "GaussNewtonTrace",
    "GradientCovariance",
    "GradientGram",
    "GradientNorms",
    "Hessian",
    "InputJacobian",
    "KroneckerCurvature",
    "LayerJacobian",
    "NTKMap",
    "ParameterJacobian",
    "ParameterSpace",
    "ParameterTrace",
    "PrincipalBlock",
    "TangentKernel",
    "TraceResult",
    "curved_parameters",
    "dual_eigenpairs",
    "gauss_newton_trace",
    "gradient_gram",
    "gradient_norms",
    "hessian_trace",
    "inverse",
    "ntk",
    "ntk_plan",
    "per_layer",
]
