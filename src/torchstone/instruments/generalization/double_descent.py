"""Would more data, more width or more training still help?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.bounds.crossed import crossed_mean
from torchstone.bounds.interval import Interval
from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError, SettingError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.size_sweep import (
    FITTED,
    Metric,
    Size,
    Step,
    compared,
    metric_of,
    over_examples,
    over_width,
    usual_width,
)

LEAST = 10  # training examples


@dataclass(frozen=True)
class DoubleDescent:
    """Test error of the recipe over the number of training examples, over width and over epochs.

    The test error need not fall when data, width or training grow: around the point where the network just fits its
    training data it may rise before it falls again. Networks are trained on nested random subsets, each with as many
    updates as the recipe makes; on several widths where `recipe.build` takes a `width`; and watched epoch by epoch on all
    examples. Largest sizes that still fit (or smallest that do) are marked. The value is the change of the test error by
    the last doubling of the data.

    Cost: seeds * len(shares) trainings, and seeds * len(widths) more where width can be set. Error bars: over seeds and
    test examples, not over the draw of the training set, of which the subsets are nested.
    Source: Belkin, Hsu, Ma & Mandal 2019; Nakkiran et al. 2020.
    """

    META: ClassVar[Meta] = Meta(
        id="double_descent",
        question=Question.GENERALIZATION,
        title="Double descent",
        asks="Would more data, width or training still help?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.TEST, Need.PARAMETERS, Need.RETRAINING),
        unit="change of the test error by twice the data",
        source="Belkin, Hsu, Ma & Mandal 2019; Nakkiran et al. 2020, section 5 to 7",
    )
    shares: tuple[float, ...] = (0.125, 0.25, 0.5)
    """Of the training examples, besides all of them."""
    widths: tuple[float, ...] = (0.25, 0.5, 2.0)
    """Factors of the width, where it can be set, besides 1."""
    seeds: int = 3
    """Networks at each size."""

    def __post_init__(self) -> None:
        _require_factors(self, "shares", 0.999)
        _require_factors(self, "widths", 1e3)
        require_count(self, "seeds", 2, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Train at every size and compare neighbours."""
        count = bench.specimen.size("train")
        sizes = sorted({round(share * count) for share in self.shares} | {count})
        sizes = [size for size in sizes if size >= LEAST]
        if len(sizes) < 2 or bench.specimen.size("test") < 2:
            raise NotApplicableError(
                f"needs at least 2 test examples and {LEAST} training examples in a share of them"
            )
        metric = metric_of(bench)
        seeds = torch.randint(2**31, (self.seeds,), generator=bench.generator(self.META.id)).tolist()
        by_data, watched = over_examples(bench, metric, sizes, seeds)
        by_width = over_width(bench, metric, self.widths, seeds, by_data[-1])
        steps = [("data", compared(by_data)), ("width", compared(by_width))]
        tests = sum(len(some) for _, some in steps)
        rises = [
            (what, step) for what, some in steps for step in some if step.interval(1 - 0.05 / tests).low > 0
        ]
        last = steps[0][1][-1]
        verdict = judge([f"{what} from {step.low:g} to {step.high:g}" for what, step in rises])
        interval = last.interval(0.95)
        return Reading.of(
            self.META,
            value=last.change,
            uncertainty=Uncertainty(interval.low, interval.high, "seeds and examples", interval.method),
            verdict=verdict,
            headline=_headline(metric, by_data, last),
            explanation=(
                f"{self.seeds} networks were trained at each size with the updates of the recipe, and tested on the same "
                "examples; neighbouring sizes are compared example by example and seed by seed. A rise counts where it is "
                "beyond its error bar, split among all comparisons."
            ),
            remedies=_remedies(verdict, interval),
            details=_details(metric, by_data, by_width, usual_width(_build(bench)), watched),
            notes=_notes(by_data[-1], by_width),
            unit=f"change of the test {metric.name}",
        )


def _require_factors(owner: DoubleDescent, name: str, most: float) -> None:
    values: Any = getattr(owner, name)
    fine = isinstance(values, tuple) and len(values) > 0
    if not fine or not all(
        isinstance(v, int | float) and v is not True and 1e-6 <= v <= most for v in values
    ):
        raise SettingError(
            f"{owner.META.id}.{name} must be a tuple of numbers from 1e-6 to {most:g}",
            repr(values),
            "Pass for example (0.25, 0.5).",
        )


def judge(rises: list[str]) -> Verdict:
    """Attention where a larger size did worse beyond doubt."""
    threshold = "no rise of the test error with data or width, beyond its error bar"
    source = "double descent: Belkin et al. 2019, Nakkiran et al. 2020; Bonferroni over the comparisons"
    if rises:
        return Verdict(
            Level.ATTENTION, f"the test error rises with {', and with '.join(rises)}", threshold, source
        )
    return Verdict(Level.GOOD, "no size did worse than a smaller one beyond doubt", threshold, source)


def _headline(metric: Metric, sizes: list[Size], last: Step) -> str:
    own, before = sizes[-1], sizes[-2]
    first, second = (metric.show(float(one.test.mean())) for one in (before, own))
    went = "falls" if last.change < 0 else "rises"
    course = f"{went} from {first} to {second}" if last.change else f"stays at {second}"
    return (
        f"From {last.low:,.0f} to {last.high:,.0f} training examples the test {metric.name} "
        f"{course}; the recipe {'fits' if own.fitted else 'does not fit'} all its data."
    )


def _build(bench: Workbench) -> Any:
    return bench.specimen.recipe.build if bench.specimen.recipe is not None else None


def _details(
    metric: Metric, by_data: list[Size], by_width: list[Size], width: int | None, watched: dict[str, Tensor]
) -> tuple[Detail, ...]:
    details: list[Detail] = [_curve("training examples", metric, by_data, by_data[-1].size, most=True)]
    if by_width and width is not None:
        details.append(_curve("width", metric, by_width, width, most=False))
    if watched:
        details.append(_epochs(metric, watched))
    rows = [
        (axis, one.size, float(one.test.mean()), float(one.train.mean()), one.fitted)
        for axis, sizes in (("training examples", by_data), ("width", by_width))
        for one in sizes
    ]
    columns = ("varied", "size", f"test {metric.name}", f"training {metric.name}", "training data fitted")
    return (*details, Table("Every size", columns, tuple(rows)))


def _curve(axis: str, metric: Metric, sizes: list[Size], own: float, *, most: bool) -> Curve:
    x = tuple(one.size for one in sizes)
    bars = [crossed_mean(one.test)[0] for one in sizes]
    test = Line(
        f"test {metric.name}",
        x,
        tuple(float(one.test.mean()) for one in sizes),
        tuple(max(0.0, bar.low) for bar in bars),
        tuple(bar.high for bar in bars),
    )
    train = Line(f"training {metric.name}", x, tuple(float(one.train.mean()) for one in sizes))
    markers = [Marker("this recipe", own, "x")]
    fitted = [one.size for one in sizes if one.fitted]
    if fitted and len(fitted) < len(sizes):
        name = "most that is still fitted" if most else "least that fits all"
        markers.append(Marker(name, max(fitted) if most else min(fitted), "x"))
    return Curve(
        f"Over {axis}",
        Axis(axis, log=True),
        Axis(metric.name),
        (test, train),
        tuple(markers),
        caption="Band: 95% over seeds and test examples. Double descent shows as a bump near the size at which the "
        "training data are just fitted.",
    )


def _epochs(metric: Metric, watched: dict[str, Tensor]) -> Curve:
    lines = []
    for split, name in (("test", "test"), ("train", "training")):
        series = watched[split]
        kept = thin(series.shape[1], 500)
        shown = series[:, kept]
        x = tuple(i + 1.0 for i in kept)
        lines.append(
            Line(
                f"{name} {metric.name}",
                x,
                numbers(shown.mean(0)),
                numbers(shown.amin(0)),
                numbers(shown.amax(0)),
            )
        )
    fitted = [
        i for i, value in enumerate(watched["train"].mean(0).tolist()) if metric.classes and value <= FITTED
    ]
    markers = (Marker("training data fitted", fitted[0] + 1.0, "x"),) if fitted else ()
    return Curve(
        "Over epochs",
        Axis("epoch"),
        Axis(metric.name),
        tuple(lines),
        markers,
        caption="Mean over seeds; the band is from the best to the worst seed. A test error that rises and falls again is "
        "epoch-wise double descent; one that only rises asks for early stopping.",
    )


def _notes(own: Size, by_width: list[Size]) -> tuple[str, ...]:
    notes = ["Subsets are nested and drawn once: the error bars do not cover the draw of the training set."]
    if not by_width:
        notes.append("No sweep over width: recipe.build takes no `width` with a default.")
    if not own.fitted:
        notes.append("The recipe does not fit its training data: it lies before the interpolation threshold.")
    return tuple(notes)


def _remedies(verdict: Verdict, last: Interval) -> tuple[Remedy, ...]:
    if verdict.level is Level.ATTENTION:
        return (
            Remedy(
                "Regularise (weight decay tuned on held-out data): the best penalty removes the peak.",
                claim="double_descent",
            ),
            Remedy("Or move away from the threshold: a clearly wider network, or training stopped earlier."),
        )
    if last.high < 0:
        return (Remedy("More data: the last doubling still lowered the test error beyond doubt."),)
    return ()


INSTRUMENT = DoubleDescent
