"""How evenly do signals pass the network: the singular values of its Jacobian, as a whole and layer by layer?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError, SettingError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation
from torchstone.workbench.passages import OUTPUT, PassageJacobian, passages
from torchstone.workbench.singular_spectrum import SingularSpectrum, singular_spectrum

# A Gaussian ReLU network of L layers has a spread of 2 L (Pennington et al. 2017): this is one of ten layers.
WIDE_SPREAD = 20.0
# Fewer directions than this carry the signal where the Jacobian has collapsed to rank one, of at least so many.
COLLAPSED, ENOUGH = 2.0, 8

Route = tuple[str, str]


@dataclass(frozen=True)
class JacobianSpectrum:
    r"""Spread of the squared singular values of the Jacobian between the first and the last hidden layer.

    With s_1 >= ... >= s_n the singular values of J = d h_last / d h_first at one example, the value is the mean over
    examples of Var(s^2) / mean(s^2)^2: 0 for an isometry (all directions are passed alike, "dynamical isometry"), n - 1
    where a single direction gets through; n / (1 + spread) directions carry the signal. The Jacobians from input to
    output and from one layer to the next are shown beside it, each exactly where it has at most `dense` singular values
    and by short Golub-Kahan processes where it has more. Layers are those points that the whole signal passes, so
    residual blocks count as one; of networks with fewer than three of them, the Jacobian from input to output is judged.

    Cost: for each example and Jacobian four forward passes and min(outputs, inputs) backward passes of that example, at
    most about 100. Bias: none where exact.
    Source: Saxe, McClelland & Ganguli 2014; Pennington, Schoenholz & Ganguli 2017, section 2.
    """

    META: ClassVar[Meta] = Meta(
        id="jacobian_spectrum",
        question=Question.TRAINABILITY,
        title="Singular values of the Jacobian",
        asks="How evenly do signals pass the network?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.INDEPENDENT_EXAMPLES),
        unit="relative variance of squared singular values",
        source="Saxe, McClelland & Ganguli 2014; Pennington, Schoenholz & Ganguli 2017, section 2",
    )
    examples: int = 4
    layers: int = 10
    """At most this many stretches from layer to layer; networks with more layers have several in one stretch."""
    dense: int = 64
    """Jacobians with at most this many singular values have all of them computed."""

    def __post_init__(self) -> None:
        require_count(self, "examples", 2, 1000)
        require_count(self, "layers", 1, 200)
        require_count(self, "dense", 1, 10_000)

    def measure(self, bench: Workbench) -> Reading:
        """Take the Jacobians at some examples, now and at initialisation."""
        rows = bench.sample("train", self.examples, self.META.id)
        names = passages(bench.specimen, int(rows[0]))
        if len(names) < 2:
            raise NotApplicableError("needs a layer with weights through which inputs reach the outputs")
        whole, inner = (names[0], OUTPUT), (names[1], names[-2])
        judged = inner if len(names) > 3 else whole
        kept = [names[i] for i in thin(len(names), max(2, self.layers + 1))]
        stretches = list(pairwise(kept))
        now = self._spectra(bench, bench.specimen, rows, {whole, judged, *stretches})
        start, notes = at_initialisation(bench.specimen)
        before = self._spectra(bench, start, rows, {whole, judged}) if start is not None else {}
        measured = now[judged]
        verdict = judge(before.get(judged), measured)
        return Reading.of(
            self.META,
            value=measured.spread,
            uncertainty=measured.uncertainty,
            verdict=verdict,
            headline=_headline(judged, now, before, whole),
            explanation=(
                "Singular values of the derivative of what a later layer takes in what an earlier one takes, at single "
                "training examples. The spread is the variance of their squares over their squared mean, averaged over "
                "examples: 0 where all directions pass alike, and n / (1 + spread) of n directions carry the signal."
            ),
            remedies=_remedies(verdict),
            details=_details(now, before, judged, whole, stretches),
            notes=(f"Jacobians at {len(rows)} training examples.", *_notes(now), *notes),
        )

    def _spectra(
        self, bench: Workbench, specimen: Specimen, rows: Tensor, routes: set[Route]
    ) -> dict[Route, Examples]:
        found = {}
        for route in sorted(routes):
            generator = bench.generator(f"{self.META.id} {route}")
            maps = (PassageJacobian(specimen, *route, split="train", rows=int(row)) for row in rows)
            try:
                with specimen.measuring():  # once for all products
                    spectra = [
                        singular_spectrum(map_, dense=self.dense, generator=generator) for map_ in maps
                    ]
                found[route] = Examples(tuple(spectra))
            except SettingError as error:
                raise NotApplicableError(f"needs Jacobians: {error}") from None
        return found


@dataclass(frozen=True)
class Examples:
    """Spectra of one Jacobian at several examples."""

    spectra: tuple[SingularSpectrum, ...]

    def _over(self, name: str) -> Tensor:
        found = torch.tensor([getattr(one, name) for one in self.spectra], dtype=torch.float64)
        return found[~found.isnan()]

    @property
    def count(self) -> int:
        """Number of singular values."""
        return min(one.count for one in self.spectra)

    @property
    def spread(self) -> float | None:
        """Mean over the examples at which anything passes; None where nothing ever does."""
        found = self._over("spread")
        return float(found.mean()) if len(found) else None

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Student's t interval over the examples."""
        found = self._over("spread")
        if len(found) < 2:
            return None
        from scipy.stats import t

        mean, error = float(found.mean()), float(found.std()) / len(found) ** 0.5
        half = float(t.ppf(0.975, len(found) - 1)) * error
        return Uncertainty(max(0.0, mean - half), mean + half, "examples", "Student's t, 95%", 0.95, error)

    @property
    def effective(self) -> float:
        """Directions that carry the signal."""
        return self.count / (1 + (self.spread or 0.0)) if self.spread is not None else 0.0

    def middle(self, name: str) -> float:
        """Median over the examples, of one of a spectrum's numbers."""
        return float(self._over(name).median()) if len(self._over(name)) else math.nan

    @property
    def exact(self) -> bool:
        """Whether all singular values are known."""
        return all(one.exact for one in self.spectra)


def judge(before: Examples | None, now: Examples) -> Verdict:
    """Judge the spread at initialisation; of a trained network it is informative, unless nothing passes it.

    Returns:
        Poor where fewer than two of eight or more directions carry the signal, attention above a spread of 20.
    """
    threshold = f"spread at initialisation at most {WIDE_SPREAD:g}, and {COLLAPSED:g} or more directions that carry the signal"
    source = (
        "Pennington, Schoenholz & Ganguli 2017, table 1: a Gaussian ReLU network of L layers has a spread of 2 L, here ten "
        "layers (convention)"
    )
    if now.spread is None or (before is not None and before.spread is None):
        when = "" if now.spread is None else " at initialisation"
        return Verdict(Level.POOR, f"no direction at all passes{when}", threshold, source)
    if before is None:
        reason = (
            f"{now.effective:.3g} of {now.count} directions carry the signal; the initial state is not known"
        )
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    assert before.spread is not None
    reason = f"{before.effective:.3g} of {before.count} directions carry the signal at initialisation"
    if before.effective < COLLAPSED and before.count >= ENOUGH:
        return Verdict(Level.POOR, reason, threshold, source)
    level = Level.ATTENTION if before.spread > WIDE_SPREAD else Level.GOOD
    return Verdict(level, reason, threshold, source)


def _name(passage: str) -> str:
    if passage == "model":
        return "input"
    return f"layer {passage}" if passage[0].isdigit() else passage


def _words(route: Route) -> str:
    return " to ".join(map(_name, route))


def _headline(judged: Route, now: dict[Route, Examples], before: dict[Route, Examples], whole: Route) -> str:
    found = now[judged]
    if found.spread is None:
        return f"Nothing passes from {_words(judged)}: every singular value of the Jacobian is 0."
    text = f"From {_words(judged)}, {found.effective:.3g} of {found.count} directions carry the signal"
    if judged in before:
        text += f" ({before[judged].effective:.3g} at initialisation)"
    condition = now[whole].middle("condition")
    shown = (
        "infinite" if condition == math.inf else f"{'' if now[whole].exact else 'at least '}{condition:.3g}"
    )
    return f"{text}; the condition number of the Jacobian from {_words(whole)} is {shown}."


def _notes(now: dict[Route, Examples]) -> tuple[str, ...]:
    notes = []
    if not all(found.exact for found in now.values()):
        notes.append(
            "Where not all singular values were computed, mean and spread are estimates from three random directions, and "
            "the condition number is a lower bound."
        )
    dead = max(sum(math.isnan(one.spread) for one in found.spectra) for found in now.values())
    if dead:
        notes.append(
            f"At {dead} of the examples no signal passes some of the layers at all; they are not in the means."
        )
    return tuple(notes)


def _details(
    now: dict[Route, Examples],
    before: dict[Route, Examples],
    judged: Route,
    whole: Route,
    stretches: list[Route],
) -> tuple[Detail, ...]:
    lines = []
    for when, spectra in (("", now), (", at initialisation", before)):
        for route in dict.fromkeys((whole, judged)):
            line = _line(f"{_words(route)}{when}", spectra[route]) if route in spectra else None
            lines += [line] if line is not None else []
    details: list[Detail] = []
    if lines:
        details.append(
            Curve(
                "Singular values, largest first",
                Axis("rank", "% of the singular values"),
                Axis("singular value, geometric mean over examples", log=True),
                tuple(lines),
                caption="A level line is an isometry: all directions pass alike. Values below 1e-7 of the largest are shown there.",
            )
        )
    shown = [route for route in stretches if (now[route].spread or 0.0) > 0]
    if len(shown) > 1:
        line = Line(
            "spread", numbers(range(1, len(shown) + 1)), numbers(now[route].spread or 0.0 for route in shown)
        )
        details.append(
            Curve(
                "Spread from layer to layer",
                Axis("stretch, input to output"),
                Axis("variance of the squared singular values over their squared mean", log=True),
                (line,),
                (Marker("Gaussian ReLU layer", 2.0), Marker("orthogonal ReLU layer", 1.0)),
                tuple(_words(route) for route in shown) if len(shown) <= 12 else (),
                caption="In wide random networks the spreads of layers of one width add up over depth. Layers that change the width have "
                "spreads of their own.",
            )
        )  # fmt: skip
    routes = dict.fromkeys((whole, judged, *stretches))
    columns = (
        "Jacobian",
        "rows x columns",
        "mean squared singular value",
        "spread",
        "directions that carry the signal",
        "largest",
        "smallest",
        "condition number (median)",
        "how",
    )
    rows = [_row(_words(route), now[route]) for route in routes]
    rows += [_row(f"{_words(route)}, at initialisation", found) for route, found in before.items()]
    caption = "Medians over examples, the spread is a mean. Piecewise linear layers are often singular: inactive units pass nothing."
    return (*details, Table("Jacobians", columns, tuple(rows), caption))


def _line(name: str, found: Examples) -> Line | None:
    values = [one.values for one in found.spectra if one.values is not None and one.largest > 0]
    if not values or len({len(one) for one in values}) > 1 or len(values[0]) < 2:
        return None
    logs = torch.stack([one.clamp(min=1e-7 * float(one[0])).log() for one in values]).mean(0)
    kept = thin(len(logs), 300)
    return Line(name, numbers(100 * (i + 1) / len(logs) for i in kept), numbers(logs[kept].exp()))


def _row(name: str, found: Examples) -> tuple[str | float | None, ...]:
    shape = "x".join(map(str, found.spectra[0].shape))
    condition = found.middle("condition")
    how = "exact" if found.exact else "Golub-Kahan, ends from inside"
    return (
        name,
        shape,
        found.middle("mean"),
        found.spread,
        found.effective,
        found.middle("largest"),
        found.middle("smallest"),
        condition,
        how,
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level not in (Level.ATTENTION, Level.POOR):
        return ()
    return (
        Remedy(
            'Start with orthogonal weights (scheme="orthogonal"): their own singular values are all equal.',
            "torchstone.init.apply",
            "dynamical_isometry",
            trial="init=orthogonal",
        ),
        Remedy(
            "Put layers into residual blocks, branches scaled by one over their number: the Jacobian of each is I + J.",
            "torchstone.layers.residual.Residual",
            "residual_jacobian",
            "skip=residual",
        ),
        Remedy(
            "Normalise what enters each layer, which keeps its mean square.",
            "torch.nn.LayerNorm",
            trial="norm=layer",
        ),
    )


INSTRUMENT = JacobianSpectrum
