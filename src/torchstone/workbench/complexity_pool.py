"""Which complexity measure orders the generalization gaps of a pool of networks, trained with other settings?"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchstone.bounds.interval import Interval
from torchstone.bounds.rank_correlation import granulated_tau, kendall_tau, tau_interval
from torchstone.errors import NotApplicableError, SettingError
from torchstone.reading import Need
from torchstone.specimen import Specimen
from torchstone.workbench.complexity import NAMES, Panel, complexity_panel
from torchstone.workbench.retraining import train_many, untrained
from torchstone.workbench.siblings import Siblings
from torchstone.workbench.workbench import Workbench

AXES = ("learning rate", "weight decay", "batch size")


@dataclass(frozen=True)
class Ranking:
    """How one measure orders the gaps.

    Args:
        name: Of the measure.
        tau: Kendall's tau over all networks.
        interval: Of it, so wide that all measures' intervals hold together.
        axes: Mean tau along each setting, the others held fixed; NaN where the table has holes.
        granulated: Mean of `axes`.
    """

    name: str
    tau: float
    interval: Interval
    axes: tuple[float, ...]
    granulated: float


@dataclass(frozen=True)
class Pool:
    """Trained networks with their gaps and measures.

    Args:
        settings: Learning rate (factor of the recipe's), weight decay and batch size of each.
        shape: Levels of each axis.
        gaps: Test error minus training error, or test loss minus training loss, (K,).
        gap_is_error: Which.
        panels: Measures of each.
        rankings: Of every measure that all networks have, best first.
        diverged: How many networks could not be trained.
    """

    settings: tuple[tuple[float, float, int], ...]
    shape: tuple[int, ...]
    gaps: Tensor
    gap_is_error: bool
    panels: tuple[Panel, ...]
    rankings: tuple[Ranking, ...]
    diverged: int


def pool_settings(levels: int, batch_size: int, most: int) -> tuple[tuple[float, float, int], ...]:
    """All combinations of learning rates, weight decays and batch sizes around a recipe's.

    Rates are 1, 1/2, 1/4, ... of the recipe's (larger ones may diverge), decays 0 and the powers of ten up to 0.01, batch sizes
    the recipe's halved and doubled.

    Args:
        levels: Of each axis.
        batch_size: The recipe's.
        most: Number of examples.
    """
    rates = [2.0 ** (k - levels + 1) for k in range(levels)]
    decays = [0.0, *(10.0 ** (k - levels) for k in range(levels - 1))]
    sizes = [max(1, min(most, round(batch_size * 2.0 ** (k - levels // 2)))) for k in range(levels)]
    if len(set(sizes)) < levels:
        raise NotApplicableError("the batch size leaves no room to be halved and doubled")
    return tuple(itertools.product(rates, decays, sizes))


def trained_pool(bench: Workbench, levels: int, rows: Tensor, name: str) -> Pool:
    """Train `levels`³ networks by the recipe with other rates, decays and batch sizes, and rank the measures by their gaps.

    All start from the same weights, so that settings alone tell them apart.

    Cost: levels³ trainings, and as many panels.

    Args:
        bench: With a recipe that can train.
        levels: Of each of three settings.
        rows: Training examples for the panels.
        name: Of the generator.

    Raises:
        NotApplicableError: No test data, a recipe that cannot train so, or fewer than four networks that did not diverge.
    """
    specimen = bench.specimen
    if not specimen.has("test"):
        raise NotApplicableError("needs test examples")
    recipe = specimen.recipe
    if recipe is None or recipe.build is None or not recipe.batch_size:
        raise NotApplicableError(f"needs {Need.RETRAINING}, and its batch size")
    settings = pool_settings(levels, recipe.batch_size, specimen.size("train"))
    seed = int(torch.randint(2**31, (), generator=bench.generator(f"{name} pool")))
    initial = untrained(specimen, torch.Generator().manual_seed(seed)).state_dict()
    is_error = not (bench.lacks(Need.LABELS) or bench.lacks(Need.SCORES))
    gaps, panels = torch.full((len(settings),), math.nan, dtype=torch.float64), {}
    for size in sorted({one[2] for one in settings}):
        places = [k for k, one in enumerate(settings) if one[2] == size]
        siblings = _trained(specimen, [settings[k] for k in places], size, seed)
        gap = _gaps(siblings, is_error)
        diverged = siblings.run.diverged if siblings.run is not None else {}
        for member, k in enumerate(places):
            if member not in diverged:
                gaps[k] = gap[member]
                part = part_of(specimen, siblings.member(member), rows)
                panels[k] = complexity_panel(part, initial, bench.generator(f"{name} {k}"))
    kept = sorted(panels)
    if len(kept) < 4:
        raise NotApplicableError(f"only {len(kept)} of {len(settings)} networks could be trained")
    found = tuple(panels[k] for k in kept)
    shape = (levels,) * 3
    return Pool(
        tuple(settings[k] for k in kept),
        shape,
        gaps[kept],
        is_error,
        found,
        ranked(found, gaps[kept], shape if len(kept) == len(settings) else ()),
        len(settings) - len(kept),
    )


def ranked(panels: Sequence[Panel], gaps: Tensor, shape: Sequence[int] = ()) -> tuple[Ranking, ...]:
    """Every measure that all networks have, by how well it orders their gaps.

    Args:
        panels: Measures of K networks.
        gaps: (K,).
        shape: Levels of each setting, where the networks are a full table in row-major order; empty where not.
    """
    names = [name for name in NAMES if all(name in panel.logs for panel in panels)]
    confidence = 1 - 0.05 / max(1, len(names))
    rankings = []
    for name in names:
        values = torch.tensor([panel.logs[name] for panel in panels], dtype=torch.float64)
        tau, interval = kendall_tau(values, gaps), tau_interval(values, gaps, confidence)
        axes: tuple[float, ...] = ()
        score = math.nan
        if shape:
            table = granulated_tau(values.reshape(*shape), gaps.reshape(*shape))
            axes, score = table.axes, table.score
        rankings.append(Ranking(name, tau, interval, axes, score))
    return tuple(sorted(rankings, key=lambda one: -one.tau if not math.isnan(one.tau) else math.inf))


def part_of(specimen: Specimen, model: nn.Module, rows: Tensor | None = None) -> Specimen:
    """A specimen of another network on some of the same training examples."""
    part = copy.copy(specimen)
    for cached in ("trainable", "device", "dtype"):
        part.__dict__.pop(cached, None)
    names = set(specimen.trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    part.model, part.objective = model, specimen.objective.bind(model)
    if rows is not None and len(rows) < specimen.size("train"):
        part.splits = {**specimen.splits, "train": specimen.split("train").take(rows)}
    return part


def _trained(
    specimen: Specimen, settings: Sequence[tuple[float, float, int]], size: int, seed: int
) -> Siblings:
    """Networks of one batch size."""
    assert specimen.recipe is not None
    other = copy.copy(specimen)
    other.recipe = replace(specimen.recipe, batch_size=size)
    try:
        return train_many(
            other,
            [seed] * len(settings),
            lr_factors=[rate for rate, _, _ in settings],
            weight_decay=[decay for _, decay, _ in settings],
        )
    except SettingError as error:  # an optimiser that has a decay, or is not linear in its rate
        raise NotApplicableError(f"the recipe's optimizer does not allow it: {error}") from None


def _gaps(siblings: Siblings, is_error: bool) -> Tensor:
    measured: Callable[[str], Tensor] = siblings.errors if is_error else siblings.losses
    return measured("test").mean(1) - measured("train").mean(1)
