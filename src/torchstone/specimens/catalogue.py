"""The built-in specimens: real networks trained on the spot on embedded or generated data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torchstone.specimen import Specimen


@dataclass(frozen=True)
class BuiltIn:
    """A built-in specimen: its name, what it is, and the module whose `build` makes it."""

    name: str
    about: str
    module: str

    def load(self) -> Callable[..., Specimen]:
        """The function that makes it."""
        return importlib.import_module(self.module).build


def built_in() -> dict[str, BuiltIn]:
    """Built-in specimens by name."""
    listed = (
        BuiltIn(
            "digits",
            "convolutional network on scikit-learn's handwritten digits; --with label_noise=0.05 flips labels",
            "torchstone.specimens.digits",
        ),
        BuiltIn(
            "mnist1d",
            "convolutional network on MNIST-1D (40 points, 10 classes)",
            "torchstone.specimens.mnist1d",
        ),
        BuiltIn(
            "two-moons", "small dense network on two interleaved half-moons", "torchstone.specimens.two_moons"
        ),
        BuiltIn(
            "regression",
            "dense network on a generated nonlinear regression",
            "torchstone.specimens.regression",
        ),
    )
    return {one.name: one for one in listed}
