"""Networks built by hand, which show what a number of layers and units can express."""

from torchstone.approximation.dense_layer import dense_layer
from torchstone.approximation.shallow_interpolant import shallow_interpolant
from torchstone.approximation.square_network import SquareNetwork

__all__ = ["SquareNetwork", "dense_layer", "shallow_interpolant"]
