"""Initialisers, for one layer or a whole model, and what theory says of them."""

from torchstone.init.activations import activations_behind
from torchstone.init.apply import Initialised, InitTable, apply
from torchstone.init.critical import Criticality, correlation_map, critical_point, criticality
from torchstone.init.delta_orthogonal import delta_orthogonal_
from torchstone.init.fans import Fans, fans
from torchstone.init.lsuv import LsuvLayer, lsuv
from torchstone.init.mean_field import expectation, fixed_point, gain, gradient_factor, variance_map
from torchstone.init.residual import fixup, zero_last
from torchstone.init.schemes import SCHEMES, Scheme, draw_weight, standard_deviation
from torchstone.init.weights import parameters_behind, set_weight

__all__ = [
    "SCHEMES",
    "Criticality",
    "Fans",
    "InitTable",
    "Initialised",
    "LsuvLayer",
    "Scheme",
    "activations_behind",
    "apply",
    "correlation_map",
    "critical_point",
    "criticality",
    "delta_orthogonal_",
    "draw_weight",
    "expectation",
    "fans",
    "fixed_point",
    "fixup",
    "gain",
    "gradient_factor",
    "lsuv",
    "parameters_behind",
    "set_weight",
    "standard_deviation",
    "variance_map",
    "zero_last",
]
