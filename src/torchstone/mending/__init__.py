"""Remedies applied by one call to an untrained copy of a network, and measured again."""

from torchstone.mending.comparison import Attempt, Comparison, Run, Stage, at_the_start
from torchstone.mending.mended import Mended, mended
from torchstone.mending.telling import told
from torchstone.mending.trial import Trial

__all__ = [
    "Attempt",
    "Comparison",
    "Mended",
    "Run",
    "Stage",
    "Trial",
    "at_the_start",
    "mended",
    "told",
]
