"""A readable reverse mode and what is built on it: for the atlas and for lessons; networks are trained by PyTorch's."""

from torchstone.autodiff.backpropagation import Backpropagation, backpropagation
from torchstone.autodiff.checkpointing import checkpointed
from torchstone.autodiff.cost import GradientCost, forward_mode_gradient, gradient_cost
from torchstone.autodiff.functional import (
    PureFunction,
    jacobian_products,
    per_example_gradients,
    pure_function,
)
from torchstone.autodiff.graph import Graph
from torchstone.autodiff.implicit import argmin_function, fixed_point_function, implicit_function
from torchstone.autodiff.invariant import InvariantCheck, check_invariant, require_invariant
from torchstone.autodiff.kinks import Kink, kinks
from torchstone.autodiff.operation import Affine, Elementwise, Operation
from torchstone.autodiff.relu_network import (
    AffineMap,
    chain_of,
    jacobian_product,
    local_affine_map,
    weight_column_derivative,
)
from torchstone.autodiff.schedule import (
    Action,
    binomial_schedule,
    fewest_advances,
    fewest_repeats,
    reversible_steps,
)
from torchstone.autodiff.sensitivity import (
    InputSensitivity,
    RemainderOrder,
    input_sensitivity,
    remainder_order,
)

__all__ = [
    "Action",
    "Affine",
    "AffineMap",
    "Backpropagation",
    "Elementwise",
    "GradientCost",
    "Graph",
    "InputSensitivity",
    "InvariantCheck",
    "Kink",
    "Operation",
    "PureFunction",
    "RemainderOrder",
    "argmin_function",
    "backpropagation",
    "binomial_schedule",
    "chain_of",
    "check_invariant",
    "checkpointed",
    "fewest_advances",
    "fewest_repeats",
    "fixed_point_function",
    "forward_mode_gradient",
    "gradient_cost",
    "implicit_function",
    "input_sensitivity",
    "jacobian_product",
    "jacobian_products",
    "kinks",
    "local_affine_map",
    "per_example_gradients",
    "pure_function",
    "remainder_order",
    "require_invariant",
    "reversible_steps",
    "weight_column_derivative",
]
