"""Public test tools: exact dense references, a zoo of awkward networks, the conformance suite for instruments."""

from torchstone.testing.conformance import (
    check_batching,
    check_costs_nothing,
    check_instrument,
    check_precision,
    check_settings,
    model_state,
    same_state,
)
from torchstone.testing.dense import (
    dense_fisher,
    dense_gauss_newton,
    dense_gradient,
    dense_gradient_covariance,
    dense_hessian,
    dense_input_jacobian,
    dense_jacobian,
    per_example_gradients,
)
from torchstone.testing.zoo import Case, zoo

__all__ = [
    "Case",
    "check_batching",
    "check_costs_nothing",
    "check_instrument",
    "check_precision",
    "check_settings",
    "dense_fisher",
    "dense_gauss_newton",
    "dense_gradient",
    "dense_gradient_covariance",
    "dense_hessian",
    "dense_input_jacobian",
    "dense_jacobian",
    "model_state",
    "per_example_gradients",
    "same_state",
    "zoo",
]
