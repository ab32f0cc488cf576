"""Early stopping: end when a series has not improved for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Patience:
    """A `stop` rule of `fit`: true once the best value is `epochs` epochs old.

    Args:
        epochs: How long to wait for a better value.
        series: Which series, as `on_epoch` returned it; "train_loss" is always there.
        least: By how much a value must fall below the best one to be better.

    Raises:
        SettingError: Nothing to wait for, or, when called, no such series.

    Source: Prechelt 1998, "Early stopping — but when?", the rule of successive strips without improvement.

    Example:
        >>> Patience(3)({"train_loss": (3.0, 1.0, 1.5, 1.2)}), Patience(2)({"train_loss": (3.0, 1.0, 1.5, 1.2)})
        (False, True)
    """

    epochs: int
    series: str = "train_loss"
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.least >= 0:
            raise SettingError(
                "Patience needs at least one epoch, and an improvement of at least 0",
                f"epochs={self.epochs}, least={self.least}",
                "Pass Patience(10).",
            )

    def __call__(self, found: Mapping[str, tuple[float, ...]]) -> bool:
        """Whether to stop."""
        if self.series not in found:
            raise SettingError(
                f"Patience watches the series {self.series!r}",
                f"series {', '.join(found)}",
                "Return it from on_epoch.",
            )
        best, since = float("inf"), 0
        for value in found[self.series]:
            if value < best - self.least:
                best, since = value, 0
            else:
                since += 1
        return since >= self.epochs
