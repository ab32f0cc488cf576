"""How complex is the network, by each measure there is, and which measure can be trusted here?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.details import Axis, Cell, Detail, Scatter, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.complexity import NAMES, Panel, complexity_panel
from torchstone.workbench.complexity_pool import AXES, Pool, part_of, trained_pool


@dataclass(frozen=True)
class ComplexityMeasures:
    r"""A panel of complexity measures C, each with the bound templates C/n and sqrt(C/n), and their test on a pool of networks.

    A bound has the form risk <= empirical risk + sqrt(C/n); C/n only where the training error is zero or the class is
    localised. The measures: number of parameters; norms, of layers and of paths; distances from initialisation; norms over
    margins; sharpness and the width of tolerated noise; gradients of single examples. With `levels` of 2 or more, that many
    learning rates, weight decays and batch sizes are combined, a network is trained with each, and every measure is
    judged by how it orders their generalization gaps: Kendall's tau, and its granulated mean.

    Cost: about 45 forward and 10 backward passes over `examples` examples; with `levels`, as many for each of levels³
    networks, and their training. Bias: worst cases err downwards.
    Source: Jiang et al. 2020, sections 2 and 3; Dziugaite et al. 2020.
    """

    META: ClassVar[Meta] = Meta(
        id="complexity_measures",
        question=Question.GENERALIZATION,
        title="Complexity measures",
        asks="How complex is it, and which measure of that orders generalization gaps here?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="Kendall's tau",
        source="Jiang et al. 2020, sections 2 and 3; Dziugaite et al. 2020",
    )
    examples: int = 256
    """At most this many training examples for margins, flatness and gradients."""
    levels: int = 0
    """Settings on each of three axes of the pool; 0 for no pool."""

    def __post_init__(self) -> None:
        require_count(self, "examples", 2)
        require_count(self, "levels", 0, 6)

    def measure(self, bench: Workbench) -> Reading:
        """Measure the network, and the pool where one is asked for."""
        specimen = bench.specimen
        rows = bench.sample("train", self.examples, self.META.id)
        initial = specimen.recipe.initial_state if specimen.recipe is not None else None
        part = part_of(specimen, specimen.model, rows)
        panel = complexity_panel(part, initial, bench.generator(self.META.id))
        count = specimen.size("train")
        pool, notes = self._pool(bench, rows)
        best = pool.rankings[0] if pool is not None and pool.rankings else None
        ordered = best is not None and not math.isnan(best.tau)
        verdict = judge(best.interval.low if ordered and best is not None else None)
        return Reading.of(
            self.META,
            value=best.tau if ordered and best is not None else None,
            uncertainty=(
                Uncertainty(best.interval.low, best.interval.high, "trained networks", best.interval.method)
                if ordered and best is not None
                else None
            ),
            verdict=verdict,
            headline=_headline(panel, pool),
            explanation=(
                "Each measure C grows with complexity. Generalization bounds have the form sqrt(C/n), with C/n only where the "
                "network makes no training error; constants and logarithms are left out, so that values of different measures "
                "do not compare, and those of different networks do. A measure is worth something where it orders the "
                "gaps of networks."
                + (
                    ""
                    if pool is None
                    else " Tau is 1 for the same order, 0 for none. The granulated score counts only pairs that differ in a "
                    "single setting, so that a measure cannot win by following one setting that moves everything."
                )
            ),
            details=(_panel_table(panel, count), *(() if pool is None else _pool_details(pool))),
            notes=(*_notes(panel, len(rows), count), *notes),
        )

    def _pool(self, bench: Workbench, rows: Tensor) -> tuple[Pool | None, tuple[str, ...]]:
        if self.levels < 2:
            return None, (
                "With levels=3 and a recipe, 27 networks are trained and the measures ranked by their gaps.",
            )
        try:
            return trained_pool(bench, self.levels, rows, self.META.id), ()
        except NotApplicableError as answer:
            return None, (f"No pool was trained: {answer.reason}.",)


def judge(low: float | None) -> Verdict:
    """Always informative: no threshold on a measure is known; with a pool, whether one orders gaps beyond chance."""
    threshold = "none: a measure orders networks, and has no value that is too large"
    source = "Jiang et al. 2020, section 6; Dziugaite et al. 2020 (no measure orders gaps everywhere)"
    if low is None:
        reason = "compare the values with those of other networks on the same data"
    elif low > 0:
        reason = "the best measure orders the gaps of the trained networks beyond chance"
    else:
        reason = "no measure orders the gaps of the trained networks beyond chance"
    return Verdict(Level.INFORMATIVE, reason, threshold, source)


def _headline(panel: Panel, pool: Pool | None) -> str:
    if pool is not None and pool.rankings and not math.isnan(pool.rankings[0].tau):
        best = pool.rankings[0]
        interval = f"tau = {best.tau:.2f}, {best.interval.low:.2f} to {best.interval.high:.2f}"
        if best.interval.low > 0:
            return f"Of {len(pool.rankings)} measures, {best.name} orders the gaps of {len(pool.gaps)} networks best ({interval})."
        return f"None of {len(pool.rankings)} measures orders the gaps of {len(pool.gaps)} networks beyond chance (best: {best.name}, {interval})."
    facts = [f"{len(panel.logs)} complexity measures have a value"]
    if panel.sigma:
        facts.append(f"noise of {panel.sigma:.2g} on every weight costs a rise of 0.1 in the loss")
    if (distance := "squared distance from initialisation") in panel.logs:
        facts.append(f"the weights moved {math.sqrt(panel.value(distance)):.3g} from initialisation")
    return "; ".join(facts) + "."


def _panel_table(panel: Panel, count: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, family in NAMES.items():
        if name in panel.logs:
            value = panel.value(name)
            rows.append((name, family, value, value / count, math.sqrt(value / count)))
        else:
            rows.append((name, family, None, None, None))
    return Table(
        "Complexity measures of this network",
        ("measure C", "family", "C", "C / n", "sqrt(C / n)"),
        tuple(rows),
        caption=f"n = {count:,} training examples. sqrt(C/n) is the usual rate of a bound, C/n that of networks without training "
        "error; constants and logarithms are left out. Infinity: no positive margin, or beyond the range of numbers.",
    )


def _pool_details(pool: Pool) -> tuple[Detail, ...]:
    rows: list[tuple[Cell, ...]] = [
        (
            one.name,
            None if math.isnan(one.tau) else one.tau,
            one.interval.low,
            one.interval.high,
            *(one.axes or (None,) * len(AXES)),
            None if math.isnan(one.granulated) else one.granulated,
        )
        for one in pool.rankings
    ]
    what = "errors" if pool.gap_is_error else "losses"
    table = Table(
        "How the measures order generalization gaps",
        ("measure", "tau", "low", "high", *(f"tau along {axis}" for axis in AXES), "granulated"),
        tuple(rows),
        caption=f"{len(pool.gaps)} networks; gaps of {what}. Intervals hold for all measures together (95%). A measure without a "
        "value of tau does not differ between the networks.",
    )
    return (table, *_scatter(pool, what))


def _scatter(pool: Pool, what: str) -> tuple[Detail, ...]:
    if not pool.rankings:
        return ()
    best = pool.rankings[0]
    logs = [panel.logs[best.name] / math.log(10) for panel in pool.panels]
    kept = [k for k, log in enumerate(logs) if math.isfinite(log)]
    texts = [f"rate x {rate:g}, decay {decay:g}, batch {size}" for rate, decay, size in pool.settings]
    return (
        Scatter(
            f"The best measure: {best.name}",
            Axis(f"log10 of {best.name}"),
            Axis(f"gap of {what}"),
            numbers(logs[k] for k in kept),
            numbers(float(pool.gaps[k]) for k in kept),
            texts=tuple(texts[k] for k in kept),
            caption="One point a network. A measure that orders the gaps rises to the right.",
        ),
    )


def _notes(panel: Panel, rows: int, count: int) -> tuple[str, ...]:
    notes = [f"Margins, flatness and gradients are measured on {rows:,} of {count:,} training examples."]
    reasons: dict[str, list[str]] = {}
    for name, reason in panel.missing.items():
        reasons.setdefault(reason, []).append(name)
    notes += [f"Not measured: {', '.join(names)} ({reason})." for reason, names in reasons.items()]
    return tuple(notes)


INSTRUMENT = ComplexityMeasures
