"""How thorough an examination is: which cost classes it runs, on how many examples, within how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchstone.errors import SettingError
from torchstone.reading import CostClass

MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """Which instruments run and how much data they see.

    Instruments are chosen by cost class alone, so a new instrument joins the right plans by itself.

    Args:
        name: "quick", "standard" or "deep".
        most_expensive: The highest cost class that runs.
        train_examples: At most this many training examples, drawn with the seed; None for all.
        test_examples: The same for test examples.
        memory_bytes: Budget for what the examination keeps (materialised batches, cached features).
    """

    name: str
    most_expensive: CostClass
    train_examples: int | None
    test_examples: int | None
    memory_bytes: int = 1024 * MIB

    def __post_init__(self) -> None:
        for field in ("train_examples", "test_examples"):
            value = getattr(self, field)
            if value is not None and not (_is_whole(value) and value >= 2):
                raise SettingError(
                    f"Plan.{field} must be a whole number of at least 2, or None", repr(value), "Raise it."
                )
        if not _is_whole(self.memory_bytes) or self.memory_bytes < MIB:
            raise SettingError(
                "The memory budget must be at least 1 MiB",
                f"{self.memory_bytes} bytes",
                "Try --budget 512MiB.",
            )

    @classmethod
    def named(cls, name: str, memory_bytes: int | None = None) -> Plan:
        """The plan of that name, with its memory budget replaced where one is given."""
        plans = {
            "quick": cls("quick", CostClass.SECONDS, 2_000, 2_000),
            "standard": cls("standard", CostClass.MINUTES, 10_000, 10_000),
            "deep": cls("deep", CostClass.RETRAINING, None, None),
        }
        if name not in plans:
            raise SettingError(f"plan must be one of {', '.join(plans)}", repr(name), "Pick one of them.")
        return plans[name] if memory_bytes is None else replace(plans[name], memory_bytes=memory_bytes)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_bytes(text: str) -> int:
    """Bytes in a size such as "512MiB", "2GB" or "1000000".

    >>> parse_bytes("2KiB")
    2048
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    cleaned = text.strip().upper().replace(" ", "")
    digits = cleaned.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    try:
        size = float(digits) * units[cleaned[len(digits) :]]
        if not 1 <= size < 2**63:
            raise ValueError
    except (ValueError, KeyError):
        raise SettingError(
            "A memory size is a number with a unit", repr(text), "Write it like 512MiB or 2GB."
        ) from None
    return int(size)
