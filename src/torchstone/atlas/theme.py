"""The themes of the theory: how claims are shelved, and how many topics each theme has."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from torchstone.errors import SettingError

_ID = re.compile(r"([A-Z])([0-9]{2})")


class Shelf(NamedTuple):
    """One theme's heading and its topics: `letter` with the numbers `first` to `last`."""

    heading: str
    topics: tuple[tuple[str, int, int], ...]


class Theme(StrEnum):
    """A theme; its value is the folder of its claims."""

    RISK = "risk"
    APPROXIMATION = "approximation"
    IMPLICIT_BIAS = "implicit_bias"
    OPTIMISATION = "optimisation"
    CURVATURE = "curvature"
    SIGNAL = "signal"
    AUTODIFF = "autodiff"
    ARCHITECTURES = "architectures"
    REPRESENTATION = "representation"
    KERNELS = "kernels"
    PHYSICS = "physics"
    ROBUSTNESS = "robustness"
    SHIFT = "shift"
    REGULARISATION = "regularisation"
    COMPARING = "comparing"
    MEMORISATION = "memorisation"
    MISC = "misc"

    @property
    def heading(self) -> str:
        """The theme in words."""
        return _SHELVES[self].heading

    @property
    def total(self) -> int:
        """How many topics the theme has.

        >>> sum(theme.total for theme in Theme)
        278
        """
        return sum(last - first + 1 for _, first, last in _SHELVES[self].topics)

    @classmethod
    def of(cls, topic: str) -> Theme:
        """The theme of a topic's id.

        >>> Theme.of("D06").value, Theme.of("D07").value
        ('robustness', 'shift')

        Raises:
            SettingError: No topic has that id.
        """
        match = _ID.fullmatch(topic)
        for theme, shelf in _SHELVES.items():
            for letter, first, last in shelf.topics:
                if match and match[1] == letter and first <= int(match[2]) <= last:
                    return theme
        raise SettingError(
            "A topic id is a theme's letter and a number of two digits, such as R16",
            repr(topic),
            "Correct the id.",
        )


_SHELVES = {
    Theme.RISK: Shelf("Risk and bounds", (("R", 1, 22),)),
    Theme.APPROXIMATION: Shelf("Approximation and expressivity", (("X", 1, 21),)),
    Theme.IMPLICIT_BIAS: Shelf("Implicit bias", (("I", 1, 20),)),
    Theme.OPTIMISATION: Shelf("Optimisation", (("O", 1, 35),)),
    Theme.CURVATURE: Shelf("Curvature and landscape", (("H", 1, 15),)),
    Theme.SIGNAL: Shelf("Signal propagation, initialisation and normalisation", (("S", 1, 21),)),
    Theme.AUTODIFF: Shelf("Automatic differentiation", (("A", 1, 9),)),
    Theme.ARCHITECTURES: Shelf("Architectures", (("N", 1, 25),)),
    Theme.REPRESENTATION: Shelf("Representation and losses", (("Q", 1, 14),)),
    Theme.KERNELS: Shelf("Kernels and infinite width", (("K", 1, 15),)),
    Theme.PHYSICS: Shelf("Statistical physics and symmetry", (("P", 1, 8),)),
    Theme.ROBUSTNESS: Shelf(
        "Robustness, certification and distributional robustness", (("B", 1, 26), ("D", 1, 6))
    ),
    Theme.SHIFT: Shelf("Distribution shift", (("D", 7, 9),)),
    Theme.REGULARISATION: Shelf("Data augmentation and regularisation", (("G", 1, 8),)),
    Theme.COMPARING: Shelf("Comparing representations", (("C", 1, 5),)),
    Theme.MEMORISATION: Shelf("Memorisation and stability", (("M", 1, 13),)),
    Theme.MISC: Shelf("Further topics", (("Z", 1, 12),)),
}
