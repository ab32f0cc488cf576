"""Networks built by hand, which show what a number of layers and units can express."""

from torchstone.approximation.dense_layer import dense_layer
from torchstone.approximation.exact_relu_fit import ExactReluFit, exact_relu_fit
from torchstone.approximation.nonnegative_fit import NonnegativeFit, nonnegative_fit
from torchstone.approximation.set_splitting import find_split, splitting_data, splitting_network
from torchstone.approximation.shallow_interpolant import shallow_interpolant
from torchstone.approximation.sign_patterns import SignPatterns, pattern_count, sign_patterns
from torchstone.approximation.square_network import SquareNetwork

__all__ = [
    "ExactReluFit",
    "NonnegativeFit",
    "SignPatterns",
    "SquareNetwork",
    "dense_layer",
    "exact_relu_fit",
    "find_split",
    "nonnegative_fit",
    "pattern_count",
    "shallow_interpolant",
    "sign_patterns",
    "splitting_data",
    "splitting_network",
]
