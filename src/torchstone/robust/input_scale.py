"""The scale of a data set's inputs, so that one severity means the same for every data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.robust.norms import wide


@dataclass(frozen=True, eq=False)
class InputScale:
    """Mean, spread and range of inputs, each broadcastable to a batch.

    Per feature for inputs (N, d), per channel for (N, C, H, W) and beyond, and one number for (N,) and (N, a, b), where
    either axis may be the channel.

    Args:
        mean: Means.
        deviation: Standard deviations.
        low: Smallest values.
        high: Largest values.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(inputs: Tensor) -> InputScale:
        """The scale of reference inputs (the whole data set, or a sample), in float64.

        Args:
            inputs: (N, ...), floating point, N >= 1.

        Raises:
            SettingError: Integer or empty inputs.
            NumericalError: NaN or infinite inputs.
        """
        check_inputs(inputs)
        if len(inputs) == 0:
            raise SettingError("InputScale needs at least one example", "none", "Pass reference inputs.")
        values = wide(inputs.detach())
        axes = _shared_axes(values)
        mean = values.mean(dim=axes)
        shape = [1] * values.ndim
        if values.ndim == 2 or values.ndim > 3:
            shape[1] = values.shape[1]
        deviation = values.std(dim=axes, correction=0)
        ends = values.amin(dim=axes), values.amax(dim=axes)
        return InputScale(*(part.reshape(shape) for part in (mean, deviation, *ends)))


def check_inputs(inputs: Tensor) -> None:
    """Inputs must be finite floats with an axis of examples.

    Raises:
        SettingError: Integer inputs, or none.
        NumericalError: NaN or infinite inputs.
    """
    if not inputs.is_floating_point() or inputs.ndim == 0:
        raise SettingError(
            "Corruptions need floating point inputs (N, ...)",
            f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            "Scale integer pixels to floats first; tokens have no such scale.",
        )
    if not bool(torch.isfinite(inputs).all()):
        raise NumericalError(
            "Corruptions need finite inputs",
            f"{int((~torch.isfinite(inputs)).sum())} NaN or infinite values",
            "Clean the data, or find the preprocessing step that produced them.",
        )


def _shared_axes(values: Tensor) -> tuple[int, ...]:
    """The axes that share one number."""
    if values.ndim == 2:
        return (0,)
    return tuple(axis for axis in range(values.ndim) if values.ndim <= 3 or axis != 1)
