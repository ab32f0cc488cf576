"""Curvature of a specimen's risk in its parameters, as linear maps and traces."""

from torchstone.operators.gauss_newton import GaussNewton
from torchstone.operators.hessian import Hessian
from torchstone.operators.parameter_space import ParameterSpace

__all__ = ["GaussNewton", "Hessian", "ParameterSpace"]
