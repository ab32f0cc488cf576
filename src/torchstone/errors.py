"""Every exception class of the package.

An error for a user's mistake is one paragraph with three parts: what was expected, what came, what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class TorchstoneError(Exception):
    """Base of all errors a user's input can cause.

    Args:
        expected: What would have been right, naming the argument.
        got: What came instead.
        fix: What to do about it.
    """

    def __init__(self, expected: str, got: str, fix: str) -> None:
        self.expected, self.got, self.fix = expected, got, fix
        super().__init__(f"{expected.rstrip('.;')}; got {got.rstrip('.')}. {fix}")


@contextlib.contextmanager
def blaming(kind: type[TorchstoneError], expected: str, fix: str, source: str = "") -> Iterator[None]:
    """Turn what a user's code raises inside the block into an error of ours that says where it came from.

    Args:
        kind: Class of the error.
        expected: What would have been right.
        fix: What to do.
        source: What raised, such as "forward()".

    Raises:
        TorchstoneError: Of class `kind`, with the type and message of the original as what came.
    """
    try:
        yield
    except TorchstoneError:
        raise
    except Exception as error:
        name = type(error).__name__ + (f" from {source}" if source else "")
        raise kind(expected, f"{name}: {' '.join(str(error).split()) or 'no message'}", fix) from error


class SpecimenError(TorchstoneError):
    """The model, its data or their combination cannot be examined as given."""


class ObjectiveError(TorchstoneError):
    """The objective returned something that is not outputs (N, ...) or losses (N,)."""


class BatchError(TorchstoneError):
    """A batch whose examples cannot be counted, moved or sliced."""


class RaggedError(BatchError):
    """Rows of different shapes in different batches, where they must be stacked."""


class DataError(TorchstoneError):
    """A data set whose files are missing or damaged, or whose parts do not belong together."""


class DeterminismError(TorchstoneError):
    """Two passes over the same thing disagree, so nothing measured on it could be trusted."""


class SettingError(TorchstoneError):
    """A setting of an instrument, a plan or an algorithm out of its range."""


class MemoryBudgetError(TorchstoneError):
    """The work does not fit the declared memory budget."""


class TargetError(TorchstoneError):
    """The command line's target names no specimen."""


class OutputError(TorchstoneError):
    """A file could not be written: folder not writable, disk full."""


class FormatError(TorchstoneError):
    """A saved examination that cannot be read: corrupt, or of a newer schema."""


class ProcessError(TorchstoneError):
    """Processes that measure together were given different things, or one of them failed."""


class RemedyError(TorchstoneError):
    """A remedy to try that is not known, or that cannot be applied to this model."""


class NumericalError(TorchstoneError):
    """A routine met values it cannot work with (NaN, Inf) or did not converge."""


class NotApplicableError(Exception):
    """Raised by an instrument whose question has no meaning for this specimen; becomes a reading, never an error."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
