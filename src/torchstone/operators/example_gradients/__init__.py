"""Gradients of single examples from what the autograd graph holds: activations and back-propagated signals."""

from torchstone.operators.example_gradients.batch import BatchGradients
from torchstone.operators.example_gradients.gradients import ExampleGradients
from torchstone.operators.example_gradients.layout import draw_scales
from torchstone.operators.example_gradients.norms import ExampleNorms
from torchstone.operators.example_gradients.uses import find_uses
from torchstone.operators.example_gradients.vmapped import vmapped_norms

__all__ = [
    "BatchGradients",
    "ExampleGradients",
    "ExampleNorms",
    "draw_scales",
    "find_uses",
    "vmapped_norms",
]
