"""Is what it misses on its own training data due to its size, or to its training?"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.bounds.crossed import crossed_mean
from torchstone.bounds.interval import Interval
from torchstone.bounds.mean import mean_interval
from torchstone.details import Axis, Curve, Detail, Line, Marker, Scalar, Scalars, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.recipe import Recipe
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings
from torchstone.workbench.size_sweep import Metric, metric_of, usual_width

RECIPE, LONGER, WIDER = "recipe", "longer", "wider and longer"
UNFITTED = "Left by all of them"


@dataclass(frozen=True)
class FittingError:
    """The training error of the recipe split by what longer training and a wider network remove.

    The recipe is trained again from several seeds, and on for `longer` times its epochs: what that removes is optimisation
    error. Where `recipe.build` takes a `width`, networks `wider` times as wide are trained as long: what they remove on top
    is approximation error. Both are lower bounds, for still longer training and still larger networks may remove more;
    what none of them fits stays unsplit (irreducible error among it). The textbook's parts are differences of risks on new
    data, where longer training may also do harm; the changes of the test error stand beside them.

    Cost: seeds * longer trainings, and as many of wider networks where width can be set; one forward pass where the examined
    network makes no error on its training data. Bias: lower bounds, as said.
    Source: Bottou & Bousquet 2008, section 2.2.
    """

    META: ClassVar[Meta] = Meta(
        id="fitting_error",
        question=Question.FIT,
        title="Fitting error",
        asks="Is it too small, or not trained enough?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.RETRAINING),
        unit="training error",
        source="Bottou & Bousquet 2008, section 2.2",
    )
    seeds: int = 3
    """Networks of each kind."""
    longer: float = 3.0
    """Times the recipe's epochs."""
    wider: float = 2.0
    """Times the recipe's width, where it can be set."""
    share: float = 0.1
    """Share of what is left that a part must take, beyond its error bar, to deserve attention."""

    def __post_init__(self) -> None:
        require_count(self, "seeds", 2, 1000)
        require_between(self, "longer", 1.01, 1000.0)
        require_between(self, "wider", 1.01, 1000.0)
        require_between(self, "share", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Train the references and compare them with the recipe."""
        recipe = bench.specimen.recipe
        if bench.specimen.size("train") < 2:
            raise NotApplicableError("needs at least 2 training examples")
        if recipe is None or not recipe.epochs:
            raise NotApplicableError("needs a recipe that says epochs to train again")
        if recipe.schedule is not None:
            raise NotApplicableError("the recipe's learning-rate schedule fixes how long training takes")
        metric = metric_of(bench)
        if metric.classes and not bool(bench.errors("train").any()):
            return self._nothing_left(metric)
        seeds = torch.randint(2**31, (self.seeds,), generator=bench.generator(self.META.id)).tolist()
        runs, series = self._trained(bench, recipe, metric, seeds)
        parts = split(runs)
        left = runs[RECIPE]["train"].mean(1)
        interval = mean_interval(left)
        verdict = judge(
            float(left.mean()), {name: mean_interval(part) for name, part in parts.items()}, self.share
        )
        return Reading.of(
            self.META,
            value=float(left.mean()),
            uncertainty=Uncertainty(interval.low, interval.high, "seeds", interval.method),
            verdict=verdict,
            headline=_headline(metric, float(left.mean()), parts),
            explanation=(
                f"{self.seeds} networks were trained as the recipe says, and on for {self.longer:g} times its "
                f"{recipe.epochs} epochs. What that removes of the training {metric.name} is optimisation error; what wider "
                "networks remove on top is approximation error. Both are at least so large. Intervals cover seeds."
            ),
            remedies=_remedies(parts, runs),
            details=_details(metric, recipe.epochs, parts, runs, series),
            notes=()
            if WIDER in runs
            else ("No wider networks: recipe.build takes no `width` with a default.",),
            unit=f"training {metric.name}",
        )

    def _nothing_left(self, metric: Metric) -> Reading:
        return Reading.of(
            self.META,
            value=0.0,
            verdict=judge(0.0, {}, self.share),
            headline="The network makes no error on its training data: nothing is left to split.",
            explanation="The examined network's own training error is zero, so that nothing was trained again.",
            unit=f"training {metric.name}",
        )

    def _trained(
        self, bench: Workbench, recipe: Recipe, metric: Metric, seeds: list[int]
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Results (K, N) by kind of network and split, and the series by epoch."""
        epochs = recipe.epochs or 1
        most = max(epochs + 1, round(self.longer * epochs))
        splits = [
            name for name in ("train", "test") if bench.specimen.has(name) and bench.specimen.size(name) > 1
        ]
        halfway: dict[str, list[Tensor]] = {name: [] for name in splits}

        def on_epoch(epoch: Any, siblings: Siblings) -> dict[str, Tensor]:
            found = {name: metric.of(siblings, name) for name in splits}
            if epoch.index == epochs:
                for name in splits:
                    halfway[name] += [torch.cat([epoch.members[:, None].double(), found[name]], 1)]
            return {name: value.mean(1) for name, value in found.items()}

        siblings = train_many(bench.specimen, seeds, epochs=most, on_epoch=on_epoch)
        runs = {RECIPE: {name: _in_order(halfway[name]) for name in splits}}
        runs[LONGER] = _results(metric, siblings, splits)
        width = usual_width(recipe.build)
        if recipe.build is not None and width is not None:
            build = functools.partial(recipe.build, width=max(width + 1, round(self.wider * width)))
            runs[WIDER] = _results(
                metric, train_many(bench.specimen, seeds, epochs=most, build=build), splits
            )
        return runs, dict(siblings.run.series) if siblings.run is not None else {}


def split(runs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Parts of the training error of each seed, (K,), which add up to it.

    Args:
        runs: Results (K, N) by kind of network and split; the wider networks may be missing.

    Returns:
        What longer training removes, what wider networks remove on top (where there are any), and the rest.
    """
    means = {kind: found["train"].mean(1) for kind, found in runs.items()}
    parts = {"Optimisation": means[RECIPE] - means[LONGER]}
    if WIDER in means:
        parts["Approximation"] = means[LONGER] - means[WIDER]
    return {**parts, UNFITTED: means[WIDER if WIDER in means else LONGER]}


def judge(left: float, parts: dict[str, Interval], least: float) -> Verdict:
    """Attention where training or size costs fit beyond doubt; informative where error bars leave it open.

    Args:
        left: Training error, or loss, of the recipe.
        parts: Its parts with their intervals over seeds.
        least: Share of it that a part must take.
    """
    threshold = f"longer training or a wider network removes less than {least:.0%} of the training error, beyond error bars"
    source = (
        "parts after Bottou & Bousquet 2008, by reference networks; the share is a convention of this report"
    )
    certain = [
        name for name in ("Optimisation", "Approximation") if name in parts and parts[name].low > least * left
    ]
    if left <= 0:
        return Verdict(Level.GOOD, "nothing is left to fit", threshold, source)
    if certain:
        worst = max(certain, key=lambda name: parts[name].low)
        share = parts[worst].low / left
        reason = f"{worst.lower()} error is at least {share:.0%} of what is left on the training data"
        return Verdict(Level.ATTENTION, reason, threshold, source, severity=min(0.79, 0.2 + 0.5 * share))
    unsure = [name for name, part in parts.items() if name != UNFITTED and part.high > least * left]
    if unsure:
        reason = f"whether {' or '.join(unsure).lower()} error takes more is within its error bar over so few seeds"
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    return Verdict(
        Level.GOOD, "longer training and wider networks fit little better, if at all", threshold, source
    )


def _in_order(chunks: list[Tensor]) -> Tensor:
    """Rows of members that trained in chunks, in the order of the members."""
    if not chunks:
        raise NotApplicableError("needs trainings that stay finite; all diverged")
    table = torch.cat(chunks)
    values = table[table[:, 0].argsort(), 1:]
    return _finite(values)


def _results(metric: Metric, siblings: Siblings, splits: list[str]) -> dict[str, Tensor]:
    if siblings.run is not None and siblings.run.diverged:
        raise NotApplicableError(
            f"needs trainings that stay finite; {len(siblings.run.diverged)} of {len(siblings)} diverged"
        )
    return {name: _finite(metric.of(siblings, name)) for name in splits}


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise NotApplicableError("needs losses that stay finite; some did not")
    return values


def _headline(metric: Metric, left: float, parts: dict[str, Tensor]) -> str:
    if left <= 0:
        return f"The recipe leaves no training {metric.name}."
    longer = metric.show(float(parts["Optimisation"].mean()))
    wider = (
        f", wider networks {metric.show(float(parts['Approximation'].mean()))} more"
        if "Approximation" in parts
        else ""
    )
    return f"Of a training {metric.name} of {metric.show(left)}, longer training removes {longer}{wider}."


def _details(
    metric: Metric,
    epochs: int,
    parts: dict[str, Tensor],
    runs: dict[str, dict[str, Tensor]],
    series: dict[str, Tensor],
) -> tuple[Detail, ...]:
    items = []
    for name, values in parts.items():
        interval = mean_interval(values)
        items.append(Scalar(name, float(values.mean()), metric.name, interval.low, interval.high))
    bar = Scalars(
        f"Where the training {metric.name} comes from",
        tuple(items),
        stacked=True,
        caption=(
            "Optimisation: removed by longer training. Approximation: removed by wider networks on top. A negative part means "
            "that the reference fits worse. The sum is the recipe's."
        ),
    )
    rows = []
    for kind, found in runs.items():
        change = None
        if kind != RECIPE and "test" in found:
            change = crossed_mean(found["test"] - runs[RECIPE]["test"])[0]
        rows.append(
            (
                kind,
                float(found["train"].mean()),
                float(found["test"].mean()) if "test" in found else None,
                change.low if change else None,
                change.high if change else None,
            )
        )
    columns = (
        "networks",
        f"training {metric.name}",
        f"test {metric.name}",
        "test: change, low",
        "test: change, high",
    )
    table = Table("Does it pay on new data?", columns, tuple(rows))
    return (bar, table, _curve(metric, epochs, series))


def _curve(metric: Metric, epochs: int, series: dict[str, Tensor]) -> Curve:
    lines = []
    for split_name, name in (("train", "training"), ("test", "test")):
        if split_name not in series:
            continue
        values = series[split_name]
        kept = thin(values.shape[1], 500)
        shown = values[:, kept]
        x = tuple(i + 1.0 for i in kept)
        band = numbers(shown.amin(0)), numbers(shown.amax(0))
        lines.append(Line(f"{name} {metric.name}", x, numbers(shown.mean(0)), *band))
    return Curve(
        "Training on",
        Axis("epoch"),
        Axis(metric.name),
        tuple(lines),
        (Marker("end of the recipe", float(epochs), "x"),),
        caption="Mean over seeds; the band is from the best to the worst seed. Right of the mark is what longer training adds.",
    )


def _remedies(parts: dict[str, Tensor], runs: dict[str, dict[str, Tensor]]) -> tuple[Remedy, ...]:
    remedies = []
    for name, kind, action in (
        (
            "Optimisation",
            LONGER,
            "Train longer, or tune the learning rate: the network can fit more of its data",
        ),
        ("Approximation", WIDER, "A wider network fits more of the data"),
    ):
        if name not in parts or mean_interval(parts[name]).low <= 0:
            continue
        pays = "."
        if "test" in runs[kind]:
            change = crossed_mean(runs[kind]["test"] - runs[RECIPE]["test"])[0]
            pays = (
                "; it pays on test data, too."
                if change.high < 0
                else "; on test data it does harm."
                if change.low > 0
                else "; on test data no change is beyond doubt."
            )
        remedies.append(Remedy(action + pays))
    return tuple(remedies)


INSTRUMENT = FittingError
