"""A data set in two parts, with what is known of its labels and its noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchstone.errors import DataError


@dataclass(frozen=True, eq=False)
class DataSplit:
    """Training and test examples, one row an example.

    Args:
        train_x: Training inputs (N, ...).
        train_y: Training targets: class indices (N,), or numbers (N, ...).
        test_x: Test inputs (M, ...).
        test_y: Test targets.
        names: Class names, in the order of the indices; empty for regression.
        flipped: Increasing indices of the training examples whose label was replaced by a wrong one.
        noise_variance: Variance of the noise in the targets of a regression, where it is known: no predictor has a
            smaller expected squared error.

    Raises:
        DataError: Empty parts, inputs and targets that do not pair up, labels outside the classes.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    names: tuple[str, ...] = ()
    flipped: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    noise_variance: float | None = None

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(x) != len(y):
                raise DataError(
                    f"{part}_x and {part}_y must hold the same number of examples, at least one",
                    f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
                    "Pass one target per input.",
                )
            if self.names and not (
                y.dtype == torch.int64 and 0 <= int(y.min()) <= int(y.max()) < self.classes
            ):
                raise DataError(
                    f"{part}_y must hold class indices from 0 to {self.classes - 1} as int64",
                    f"{y.dtype} from {y.min().item()} to {y.max().item()}",
                    "Give one name per class, and number the classes from 0.",
                )
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise DataError(
                "Training and test inputs must have one shape",
                f"{tuple(self.train_x.shape[1:])} and {tuple(self.test_x.shape[1:])}",
                "Preprocess both alike.",
            )

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """Training inputs and targets."""
        return self.train_x, self.train_y

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """Test inputs and targets."""
        return self.test_x, self.test_y

    @property
    def classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.names)

    def sha256(self) -> str:
        """Fingerprint of all examples, labels and planted errors: equal exactly where every bit is.

        Cost: one copy of each tensor on the CPU.
        """
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y, self.flipped):
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{array.dtype} {tuple(array.shape)};".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
