"""What is watched: one file a quantity; any instrument can be watched as well."""

from torchstone.watching.quantities.base import Quantity
from torchstone.watching.quantities.choosing import ALL, CHEAP, INSTRUMENTS, OWN, choose, chosen_quantities
from torchstone.watching.quantities.noise import GradientNoise, gradient_noise

__all__ = [
    "ALL",
    "CHEAP",
    "INSTRUMENTS",
    "OWN",
    "GradientNoise",
    "Quantity",
    "choose",
    "chosen_quantities",
    "gradient_noise",
]
