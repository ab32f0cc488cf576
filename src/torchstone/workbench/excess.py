"""How much more often something happens to training examples than to test examples."""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.bounds.proportion import clopper_pearson


@dataclass(frozen=True)
class Excess:
    """How much larger a share is for training than for test examples.

    Args:
        value: The difference.
        low: Lower end of its 95% interval; it holds for dependent samples too.
    """

    value: float
    low: float

    @classmethod
    def of(cls, found: tuple[int, int], other: tuple[int, int], factor: float = 1.0) -> Excess:
        """From successes and trials of both; the other share counts `factor` times. Without other trials it is 0."""
        each = clopper_pearson(*found, confidence=0.975)
        share = found[0] / found[1]
        if not other[1]:
            return cls(share, each.low)
        against = min(1.0, factor * clopper_pearson(*other, confidence=0.975).high)
        return cls(share - min(1.0, factor * other[0] / other[1]), each.low - against)

    def above(self, least: float) -> bool:
        """Whether it is more than `least`, and more than 0 beyond sampling error."""
        return self.value > least and self.low > 0
