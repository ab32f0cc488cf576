"""MNIST-1D: ten shapes on a line, padded, scaled, shifted, sheared and blurred with noise.

A drawing of each digit as 12 heights is the template of its class. An example is made from it so:

1. zeros are appended, 36 to 60 of them, and the whole is resampled to 72 points (a random width);
2. multiplied by 1 + 0.4 (u - 1/2), and rotated by 0 to 47 places;
3. where the signal is exactly zero, smooth noise is put (Gaussian of standard deviation 0.25, filtered with sigma = 2);
   everywhere, independent Gaussian noise of standard deviation 0.02;
4. a ramp of slope 0.75 (u - 1/2) is taken off, and the whole resampled to 40 points.

All examples together are then standardised. Random numbers are drawn in the published order from a private stream, so
that seed 42 gives the published arrays; only the arithmetic is done for all examples at once.

Source: Greydanus & Kobak 2024, Scaling Down Deep Learning with MNIST-1D, section 2 and appendix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from torchstone.data.label_noise import flip_labels
from torchstone.data.split import DataSplit
from torchstone.errors import SettingError

Array = np.ndarray

CLASSES = 10
FEWEST_ZEROS, MOST_ZEROS = 36, 60
CANVAS, LENGTH = 72, 40
SCALE, SHEAR = 0.4, 0.75
PLACES = 48
SMOOTH_NOISE, SMOOTHING, WHITE_NOISE = 0.25, 2.0, 0.02
TRAIN_SHARE = 0.8
# Lifts a template off zero, so that only appended zeros count as background.
LIFT = 1e-8

# Heights of the published drawings, in the order of the digits.
_DRAWINGS = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


def mnist1d(
    *,
    examples: int = 5000,
    shuffle_seq: bool = False,
    label_noise: float = 0.0,
    seed: int = 42,
    dtype: torch.dtype = torch.float32,
) -> DataSplit:
    """MNIST-1D: signals of shape (1, 40) in ten classes, four fifths of them for training.

    The default is the published data set, 4,000 and 1,000 examples.

    Cost: about 0.2 s for 5,000 examples.

    Args:
        examples: Number of examples, training and test together; a multiple of 10.
        shuffle_seq: Permute the 40 positions, alike in all examples: what is left to learn without locality.
        label_noise: Share of the training labels replaced by a different class; where is recorded in `flipped`.
        seed: Of everything. 42 is the published one.
        dtype: Of the signals.

    Returns:
        Signals and int64 labels.

    Raises:
        SettingError: A number of examples that ten classes cannot share equally, or `label_noise` outside [0, 1].
    """
    if examples < CLASSES or examples % CLASSES:
        raise SettingError(
            "mnist1d's examples must be a positive multiple of 10", str(examples), "Pass for example 5000."
        )
    signals, labels = _generate(examples, seed, shuffle_seq)
    x, y = torch.from_numpy(signals).to(dtype)[:, None], torch.from_numpy(labels)
    cut = int(examples * TRAIN_SHARE)
    noisy, flipped = flip_labels(y[:cut], label_noise, CLASSES, torch.Generator().manual_seed(seed))
    return DataSplit(x[:cut], noisy, x[cut:], y[cut:], tuple("0123456789"), flipped)


@dataclass(frozen=True)
class _Draws:
    """The random numbers of one example, in the order of the published stream."""

    zeros: int
    scale: float
    places: int
    smooth: Array
    white: Array
    shear: float

    @classmethod
    def next(cls, stream: np.random.RandomState) -> _Draws:
        return cls(
            zeros=FEWEST_ZEROS + int(stream.rand() * (MOST_ZEROS - FEWEST_ZEROS + 1)),
            scale=1 + SCALE * (stream.rand() - 0.5),
            places=int(stream.choice(PLACES)),
            smooth=SMOOTH_NOISE * stream.randn(CANVAS),
            white=WHITE_NOISE * stream.randn(CANVAS),
            shear=SHEAR * (stream.rand() - 0.5),
        )


def _generate(examples: int, seed: int, shuffle_seq: bool) -> tuple[Array, Array]:
    """Standardised signals (examples, 40) and labels (examples,), shuffled."""
    from scipy.ndimage import gaussian_filter1d

    stream = np.random.RandomState(seed)
    labels = np.repeat(np.arange(CLASSES), examples // CLASSES)
    draws = [_Draws.next(stream) for _ in range(examples)]
    order = stream.permutation(examples)
    positions = stream.permutation(LENGTH) if shuffle_seq else np.arange(LENGTH)

    templates = _templates()
    canvas = np.stack([_placed(templates[label], one) for label, one in zip(labels, draws, strict=True)])
    smooth = gaussian_filter1d(np.stack([one.smooth for one in draws]), SMOOTHING, axis=1)
    canvas = np.where(canvas != 0, canvas, smooth) + np.stack([one.white for one in draws])
    canvas -= np.array([[one.shear] for one in draws]) * np.linspace(-0.5, 0.5, CANVAS)
    signals = np.stack([_resampled(row, LENGTH) for row in canvas])[order][:, positions]
    return (signals - signals.mean()) / signals.std(), labels[order]


def _templates() -> Array:
    """The ten drawings, standardised, moved so that each starts at 0, and divided by 6: (10, 12)."""
    drawings = np.array(_DRAWINGS)
    drawings = drawings - drawings.mean(axis=1, keepdims=True)
    drawings /= drawings.std(axis=1, keepdims=True)
    return (drawings - drawings[:, :1]) / 6


def _placed(template: Array, draws: _Draws) -> Array:
    """One template on its canvas: stretched, scaled and rotated."""
    padded = np.concatenate([template + LIFT, np.zeros(draws.zeros)])
    return np.roll(draws.scale * _resampled(padded, CANVAS), draws.places)


def _resampled(signal: Array, points: int) -> Array:
    """Linear interpolation at equally spaced points, both ends kept."""
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(signal)), signal)
