"""The examination's questions asked while a network trains."""

from torchstone.watching.record import Alert, Header, Record, Series
from torchstone.watching.telling import TrainingWarning
from torchstone.watching.watch import Watch, watch

__all__ = ["Alert", "Header", "Record", "Series", "TrainingWarning", "Watch", "watch"]
