"""Corruptions that occur by themselves (noise, lost pixels, fog, blur), at severities 0 to 5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.input_scale import InputScale, check_inputs
from torchstone.robust.norms import wide

SEVERITIES = (0, 1, 2, 3, 4, 5)


class Corruption(Protocol):
    """One kind of corruption: its strengths at severity 1 to 5 and what it does to inputs."""

    name: ClassVar[str]
    sentence: ClassVar[str]

    @property
    def strengths(self) -> tuple[float, ...]:
        """Strength at severity 1, 2, ..., in the unit that the class documents."""
        ...

    def applies_to(self, inputs: Tensor) -> bool:
        """Whether inputs of this shape can be corrupted so."""
        ...

    def corrupt(
        self, inputs: Tensor, strength: float, scale: InputScale, generator: torch.Generator
    ) -> Tensor:
        """Corrupted float64 inputs."""
        ...


def corrupted(
    corruption: Corruption,
    inputs: Tensor,
    severity: int,
    scale: InputScale,
    generator: torch.Generator,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Inputs corrupted at a severity.

    Strengths are those of ImageNet-C in units of the data's own spread, so that they mean the same for any inputs. With
    generators of the same seed, severities of one kind share their random numbers: a higher one is the same noise, louder.

    Args:
        corruption: The kind, for example `GaussianNoise()`.
        inputs: (N, ...), floating point.
        severity: 0 (nothing happens) to the number of strengths, 5.
        scale: `InputScale.of(reference inputs)`; the same for every batch, so that batches can be split.
        generator: The source of randomness.
        clip: (low, high) of valid inputs; None clips nothing.

    Returns:
        Inputs of the same shape and dtype.

    Raises:
        SettingError: Inputs the kind does not apply to, or a severity or clip range out of range.
        NumericalError: NaN or infinite inputs.

    Example:
        >>> x = torch.linspace(0, 1, 6).reshape(2, 3)
        >>> generator = torch.Generator().manual_seed(0)
        >>> noisy = corrupted(GaussianNoise(), x, 3, InputScale.of(x), generator)
        >>> noisy.shape, torch.equal(corrupted(GaussianNoise(), x, 0, InputScale.of(x), generator), x)
        (torch.Size([2, 3]), True)

    Source: Hendrycks & Dietterich 2019, section 3.1 and the released code, from which the strengths come.
    """
    check_inputs(inputs)
    if not isinstance(severity, int) or not 0 <= severity <= len(corruption.strengths):
        raise SettingError(
            f"severity must be a whole number from 0 to {len(corruption.strengths)}",
            repr(severity),
            "0 leaves the inputs as they are.",
        )
    if not corruption.applies_to(inputs):
        raise SettingError(
            f"{corruption.name} needs inputs it applies to: {corruption.sentence}",
            f"shape {tuple(inputs.shape)}",
            "Ask applies_to first.",
        )
    if clip is not None and not clip[0] < clip[1]:
        raise SettingError("clip must be (low, high) with low < high", repr(clip), "Swap them.")
    if severity == 0 or len(inputs) == 0:
        return inputs.clone()
    values = corruption.corrupt(wide(inputs.detach()), corruption.strengths[severity - 1], scale, generator)
    return (values if clip is None else values.clamp(*clip)).to(inputs.dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """Adds normal noise, independent of everything; strengths are standard deviations in units of the data's.

    ImageNet-C's 0.08, 0.12, 0.18, 0.26, 0.38 over 0.225, the standard deviation of ImageNet's pixels.
    """

    name: ClassVar[str] = "Gaussian noise"
    sentence: ClassVar[str] = "any float inputs"
    strengths: tuple[float, ...] = (0.36, 0.53, 0.80, 1.16, 1.69)

    def applies_to(self, inputs: Tensor) -> bool:
        """Any float inputs."""
        return inputs.is_floating_point()

    def corrupt(
        self, inputs: Tensor, strength: float, scale: InputScale, generator: torch.Generator
    ) -> Tensor:
        """Inputs plus noise."""
        return inputs + strength * scale.deviation * _normal(inputs, generator)


@dataclass(frozen=True)
class UniformNoise:
    """Adds uniform noise of mean 0; strengths are standard deviations in units of the data's, as for Gaussian noise."""

    name: ClassVar[str] = "Uniform noise"
    sentence: ClassVar[str] = "any float inputs"
    strengths: tuple[float, ...] = (0.36, 0.53, 0.80, 1.16, 1.69)

    def applies_to(self, inputs: Tensor) -> bool:
        """Any float inputs."""
        return inputs.is_floating_point()

    def corrupt(
        self, inputs: Tensor, strength: float, scale: InputScale, generator: torch.Generator
    ) -> Tensor:
        """Inputs plus noise of half-width sqrt(3) standard deviations."""
        return inputs + strength * math.sqrt(3) * scale.deviation * (2 * _uniform(inputs, generator) - 1)


@dataclass(frozen=True)
class ImpulseNoise:
    """Salt and pepper: a share of values becomes the smallest or the largest of the data, with even odds."""

    name: ClassVar[str] = "Impulse noise"
    sentence: ClassVar[str] = "any float inputs"
    strengths: tuple[float, ...] = (0.03, 0.06, 0.09, 0.17, 0.27)

    def applies_to(self, inputs: Tensor) -> bool:
        """Any float inputs."""
        return inputs.is_floating_point()

    def corrupt(
        self, inputs: Tensor, strength: float, scale: InputScale, generator: torch.Generator
    ) -> Tensor:
        """Inputs with a share `strength` of values at the ends of the range."""
        hit, side = _uniform(inputs, generator) < strength, _uniform(inputs, generator) < 0.5
        return torch.where(hit, torch.where(side, scale.low, scale.high), inputs)


@dataclass(frozen=True)
class FeatureDropout:
    """A share of features, or of pixels in all their channels, takes the data's mean: a dead sensor, a lost patch.

    Not a kind of ImageNet-C; the shares are those of its impulse noise.
    """

    name: ClassVar[str] = "Feature dropout"
    sentence: ClassVar[str] = "any float inputs"
    strengths: tuple[float, ...] = (0.03, 0.06, 0.09, 0.17, 0.27)

    def applies_to(self, inputs: Tensor) -> bool:
        """Any float inputs."""
        return inputs.is_floating_point()

    def corrupt(
        self, inputs: Tensor, strength: float, scale: InputScale, generator: torch.Generator
    ) -> Tensor:
        """Inputs with a share `strength` of values at the mean."""
        sites = inputs[:, :1] if inputs.ndim > 3 else inputs
        return torch.where(_uniform(sites, generator) < strength, scale.mean, inputs)


@dataclass(frozen=True)
class Contrast:
    """Shrinks deviations from the mean; strengths are the shares that are taken away.

    From each image's own mean, per channel, for (N, C, H, W) and beyond; from the data's mean otherwise.
    """

    name: ClassVar[str] = "Contrast"
    sentence: ClassVar[str] = "any float inputs"
    strengths: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 0.95)

    def applies_to(self, inputs: Tensor) -> bool:
        """Any float inputs."""
        return inputs.is_floating_point()

    def corrupt(
        self,
        inputs: Tensor,
        strength: float,
        scale: InputScale,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Inputs nearer to their mean."""
        mean = inputs.mean(dim=tuple(range(2, inputs.ndim)), keepdim=True) if inputs.ndim > 3 else scale.mean
        return mean + (1 - strength) * (inputs - mean)


@dataclass(frozen=True)
class GaussianBlur:
    """Convolves images with a Gaussian; strengths are its standard deviation in pixels of a 32-pixel image.

    The strengths are CIFAR-10-C's. Larger images (shorter side) are blurred in proportion, smaller ones by as many pixels.
    """

    name: ClassVar[str] = "Gaussian blur"
    sentence: ClassVar[str] = "float images (N, C, H, W)"
    strengths: tuple[float, ...] = (0.4, 0.6, 0.7, 0.8, 1.0)

    def applies_to(self, inputs: Tensor) -> bool:
        """Images (N, C, H, W) of more than one pixel."""
        return inputs.is_floating_point() and inputs.ndim == 4 and min(inputs.shape[2:]) > 1

    def corrupt(
        self,
        inputs: Tensor,
        strength: float,
        scale: InputScale,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Blurred images; edges are continued by their last pixel, so that a flat image stays flat."""
        sigma = strength * max(1.0, min(inputs.shape[2:]) / 32)
        reach = int(4 * sigma + 0.5)
        offsets = torch.arange(-reach, reach + 1, dtype=inputs.dtype, device=inputs.device)
        kernel = torch.exp(-offsets.square() / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
        images = inputs.reshape(-1, 1, *inputs.shape[2:])
        images = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel)
        images = F.conv2d(F.pad(images, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3))
        return images.reshape(inputs.shape)


CORRUPTIONS: tuple[Corruption, ...] = (
    GaussianNoise(),
    UniformNoise(),
    ImpulseNoise(),
    FeatureDropout(),
    Contrast(),
    GaussianBlur(),
)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.rand(like.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return draw.to(like)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(like.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return draw.to(like)
