"""What happens to examples and to random inputs when a network is applied to its own output again and again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.kernels.nearest import nearest_neighbours
from torchstone.memory import arnoldi_radius, follow, nearest_stored, spectral_radius
from torchstone.memory.orbits import lengths
from torchstone.workbench.input_map import InputMap

DENSE_WIDTH, CERTIFIED_WIDTH = 128, 1024
"""Widest inputs for whose Jacobians all eigenvalues are found at every example, and at one of them."""


@dataclass(frozen=True)
class Stored:
    """Which examples the iterated network gives back.

    Args:
        recalled: Whether an example's disturbed copy ends within the tolerance of the example, (M,).
        disturbed: The copies, (M, ...).
        ends: Where they ended, (M, ...).
    """

    recalled: Tensor
    disturbed: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Radii:
    """Spectral radii of the Jacobian at examples.

    Args:
        values: (M,).
        low: A lower end of the largest one that always holds up to the network's own rounding; NaN where not computed.
        high: An upper end of the largest one.
        residuals: Of Ritz pairs, (M,); zeros where all eigenvalues were computed.
    """

    values: Tensor
    low: float
    high: float
    residuals: Tensor


def spacing_of(train: Tensor) -> float:
    """Median distance of a training example (N, d) to its nearest other one that is not a copy.

    Where there is no other one it is the length of the examples, and 1 where they are 0.
    """
    if len(train) > 1:
        within = nearest_neighbours(train, None, 1).distances[:, 0]
        if bool((within > 0).any()):
            return float(within[within > 0].median())
        apart = torch.cdist(train[:1].double(), train.double())
        if bool((apart > 0).any()):
            return float(apart[apart > 0].median())
    return float(lengths(train).mean()) or 1.0


def recall(
    network: InputMap,
    examples: Tensor,
    spacing: float,
    settings: tuple[float, float, int],
    generator: torch.Generator,
) -> Stored:
    """Disturb examples (M, d) and iterate.

    Args:
        network: The network.
        examples: Flat rows.
        spacing: Unit of both distances.
        settings: Disturbance and tolerance in units of the spacing, and most applications.
        generator: Draws the directions of the disturbances.
    """
    disturbance, tolerance, steps = settings
    directions = torch.nn.functional.normalize(torch.randn(examples.shape, generator=generator), dim=1)
    disturbed = network.states(examples + disturbance * spacing * directions)
    ends = iterated(network, disturbed, spacing, steps)
    distance = lengths(ends.cpu().double().flatten(1) - examples.double())
    return Stored(distance <= tolerance * spacing, disturbed.cpu(), ends.cpu())


@dataclass(frozen=True)
class Ends:
    """Where random inputs end.

    Args:
        reached: The training example within the tolerance of each, (starts,), -1 for none.
        left: Whether they left all bounds, (starts,).
        near_test: How many are near a test example; 0 without any.
        crowding: Training examples for each test example: so much more often is one near by chance.
    """

    reached: Tensor
    left: Tensor
    near_test: int
    crowding: float


def random_ends(
    network: InputMap,
    train: Tensor,
    test: Tensor | None,
    spacing: float,
    starts: int,
    settings: tuple[float, int],
    generator: torch.Generator,
) -> Ends:
    """Iterate from normal random inputs with the training data's mean and deviation in each coordinate.

    Args:
        network: The network.
        train: (N, d).
        test: (M, d) or None.
        spacing: Unit of the tolerance.
        starts: How many.
        settings: Tolerance in units of the spacing, and most applications.
        generator: Draws the starts.
    """
    tolerance, steps = settings
    spread = train.std(0, correction=0)
    drawn = train.mean(0) + spread * torch.randn(starts, train.shape[1], generator=generator)
    ends = iterated(network, network.states(drawn), spacing, steps).cpu()
    finite = ends.double().flatten(1).isfinite().all(1)
    near = lambda rows: torch.where(finite, nearest_stored(ends.nan_to_num(), rows, tolerance * spacing), -1)
    far = lengths(ends) > 100 * (lengths(train).max() + spacing)
    near_test = 0 if test is None else int((near(test) >= 0).sum())
    crowding = 1.0 if test is None else len(train) / len(test)
    return Ends(near(train), far | ~finite, near_test, crowding)


def iterated(network: InputMap, states: Tensor, spacing: float, steps: int) -> Tensor:
    """States after at most `steps` applications; fewer where all rest to a millionth of the spacing."""
    bound = 1e3 * (float(lengths(states).max()) + spacing)
    return follow(network, states, steps, 1e-6 * spacing, bound=bound).ends


def radii_at(network: InputMap, examples: Tensor, generator: torch.Generator) -> Radii:
    """Spectral radii of the Jacobian at examples (M, d): all eigenvalues where that is cheap, else Krylov spaces.

    Where inputs have at most 1,024 numbers, the largest radius gets certain ends.
    """
    states = network.states(examples)
    if network.width <= DENSE_WIDTH:
        found = spectral_radius(network.jacobians(states).cpu())
        worst = int(found.values.argmax())
        zeros = torch.zeros_like(found.values)
        return Radii(found.values, float(found.low[worst]), float(found.high[worst]), zeros)
    link = network.linked(states)
    start = torch.randn(examples.shape, generator=generator, dtype=torch.float64).to(states.device)
    krylov = arnoldi_radius(lambda vectors: network.pulled(link, vectors), start)
    values, residuals = krylov.values.cpu().clone(), krylov.residuals.cpu().clone()
    if network.width > CERTIFIED_WIDTH:
        return Radii(values, float("nan"), float("nan"), residuals)
    worst = int(values.argmax())
    exact = spectral_radius(network.jacobians(states[worst : worst + 1]).cpu(), squarings=10)
    values[worst], residuals[worst] = exact.values[0], 0.0
    return Radii(values, float(exact.low[0]), float(exact.high[0]), residuals)
