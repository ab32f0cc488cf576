"""Do gradients reach the first layers, or do they vanish or explode on the way?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.signals import backward_signals

# Schoenholz et al. 2017, section 5: networks train up to a depth of about six times the depth scale 1/|log chi|,
# that is, while the squared gradient norm changes by less than a factor e^6 over the depth.
TRAINABLE_DEPTH_SCALES = 6.0


@dataclass(frozen=True)
class GradientFlow:
    r"""Change of the back-propagated gradient over the depth of the network, in depth scales.

    With g_l the gradient of one example's loss at the output of weight layer l, a line is fitted to
    E_n[log ||g_l||^2] against l; its slope is log chi per layer, and the value is log chi times the number of layers
    crossed: positive where gradients grow towards the input (explode), negative where they shrink (vanish). The mean is
    over logarithms, so one badly fitted example cannot hide the rest. Recurrent layers are profiled over time steps in
    the same way, and the worse of the two profiles is judged.

    Cost: one forward and one backward pass over `examples` examples. Bias: none; it is a property of these examples.
    Source: Hochreiter 1991; Pascanu, Mikolov & Bengio 2013; threshold after Schoenholz et al. 2017, section 5.
    """

    META: ClassVar[Meta] = Meta(
        id="gradient_flow",
        question=Question.TRAINABILITY,
        title="Gradient flow",
        asks="Do gradients reach the first layers?",
        cost=CostClass.INSTANT,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="depth scales",
        source="Pascanu, Mikolov & Bengio 2013; Schoenholz et al. 2017, section 5",
    )
    examples: int = 256

    def __post_init__(self) -> None:
        require_count(self, "examples", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Fit the gradient's decay over layers, and over time steps where the network is recurrent."""
        rows = bench.sample("train", self.examples, self.META.id)
        signals = backward_signals(bench.specimen, rows)
        profiles = {"layers": _layer_profile(signals.layers)}
        for name, squared in signals.steps.items():
            profiles[f"time steps of {name}"] = Profile.of(list(map(str, range(squared.shape[1]))), squared)
        known = {name: profile for name, profile in profiles.items() if profile is not None}
        if not known:
            raise NotApplicableError("needs at least two layers with weights that gradients reach")
        where, worst = max(known.items(), key=lambda item: _size(item[1].change))
        verdict = judge(worst.change)
        uncertainty = None
        if math.isfinite(worst.standard_error):
            uncertainty = Uncertainty.from_standard_error(
                worst.change, worst.standard_error, covers="examples"
            )
        return Reading.of(
            self.META,
            value=worst.change,
            uncertainty=uncertainty,
            verdict=verdict,
            headline=_headline(where, worst),
            explanation=(
                "The squared norm of the loss gradient at each weight layer's output, as the mean of its logarithm over "
                "examples; the value is its fitted change from the last layer to the first, in units of e-folds "
                "(depth scales)."
            ),
            remedies=_remedies(verdict, worst.change, over_time=where != "layers"),
            details=(*(_curve(name, profile) for name, profile in known.items()), *_parameter_table(bench)),
            notes=(f"Gradients of {len(rows):,} training examples.", *_notes(worst)),
        )


@dataclass(frozen=True)
class Profile:
    """Mean log squared gradient norm along a chain of layers or time steps, and the fitted change over it.

    Args:
        names: Columns that some example's gradient reaches, from input to output.
        means: Mean of the logarithm over the examples with a gradient there.
        errors: Standard errors of the means.
        change: Mean fitted change from the last column to the first; minus infinity where the gradient of most examples
            is exactly zero at the first columns, infinity where most gradients overflow.
        standard_error: Of the change; NaN where it is infinite.
        zero: Share of examples with no gradient anywhere: fitted to the last digit.
        blocked: Share of the others whose gradient is exactly zero at the first column.
        skipped: Columns without any gradient that others nearer to the input have: branches that start at zero.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    change: float
    standard_error: float
    zero: float
    blocked: float = 0.0
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: list[str], squared: Tensor) -> Profile | None:
        """From squared norms (N, L), in order from input to output; None for fewer than two columns or examples.

        A line is fitted to each example's logarithms where they exist. Zeros behind the last column that is reached
        (padding after a sequence's end) and between others say nothing; zeros at the first column do.
        """
        squared = squared.double()
        finite = squared.isfinite().all(1)
        some = finite & (squared > 0).any(1)
        reached = some & (squared[:, 0] > 0)
        overflowed, active = int((~finite).sum()), int(some.sum())
        if squared.shape[1] < 2 or overflowed + active < 2:
            return None
        blocked = 1 - float(reached.sum()) / active if active else 0.0
        changes = _fitted_changes(squared[reached])
        if overflowed > active:
            change, error = math.inf, math.nan
        elif blocked > 0.5:
            change, error = -math.inf, math.nan
        elif len(changes) < 2:
            return None
        else:
            change, error = float(changes.mean()), float(changes.std()) / math.sqrt(len(changes))
        means, errors, kept = _column_means(squared[some])
        skipped = [index for index in range(kept[0], kept[-1]) if index not in kept] if kept else []
        return cls(
            names=tuple(names[index] for index in kept),
            means=means,
            errors=errors,
            change=change,
            standard_error=error,
            zero=float((finite & ~some).sum()) / len(squared),
            blocked=blocked,
            skipped=tuple(names[index] for index in skipped),
        )


def _fitted_changes(squared: Tensor) -> Tensor:
    """Change of each row's fitted line from its last positive column to the first; rows with at least two of them."""
    squared = squared[(squared > 0).sum(1) >= 2]
    known = (squared > 0).double()
    logs = torch.where(squared > 0, squared, 1.0).log()
    position = torch.arange(squared.shape[1], dtype=torch.float64).expand_as(known)
    centre = (known * position).sum(1, keepdim=True) / known.sum(1, keepdim=True)
    centred = known * (position - centre)
    slopes = (centred * logs).sum(1) / centred.square().sum(1)
    return -slopes * (known * position).amax(1)


def _column_means(squared: Tensor) -> tuple[tuple[float, ...], tuple[float, ...], list[int]]:
    """Mean logarithm and its standard error of each column that has positive entries, and those columns."""
    means, errors, kept = [], [], []
    for index, column in enumerate(squared.T):
        logs = column[column > 0].log()
        if len(logs):
            kept.append(index)
            means.append(logs.mean())
            errors.append(logs.std() / math.sqrt(len(logs)) if len(logs) > 1 else 0.0)
    return numbers(means), numbers(errors), kept


def _size(change: float) -> float:
    return math.inf if math.isnan(change) else abs(change)


def judge(change: float) -> Verdict:
    """Poor beyond six depth scales, attention beyond three (Schoenholz et al. 2017, section 5)."""
    threshold = f"|change| below {TRAINABLE_DEPTH_SCALES:g} depth scales (a factor e^6 in the squared norm)"
    source = (
        "Schoenholz et al. 2017, section 5: trainable up to about 6 depth scales; attention at half of that"
    )
    size = abs(change)
    how = "vanish" if change < 0 else "explode"
    if not size <= TRAINABLE_DEPTH_SCALES:  # NaN is poor
        severity = min(1.0, 0.8 + size / 500)
        return Verdict(Level.POOR, f"gradients {how} over the depth", threshold, source, severity)
    if size > TRAINABLE_DEPTH_SCALES / 2:
        return Verdict(Level.ATTENTION, f"gradients begin to {how}", threshold, source)
    return Verdict(Level.GOOD, "gradients keep their size over the depth", threshold, source)


def _layer_profile(layers: dict[str, Tensor]) -> Profile | None:
    return Profile.of(list(layers), torch.stack(list(layers.values()), dim=1)) if len(layers) >= 2 else None


def _headline(where: str, profile: Profile) -> str:
    if profile.change == math.inf:
        return "The gradients of most examples are not finite: they explode."
    if profile.change == -math.inf:
        return (
            f"For {profile.blocked:.0%} of the examples no gradient at all reaches the first of the {where}; "
            f"the first that gets any is {profile.names[0]}."
        )
    factor = math.exp(min(abs(profile.change) / 2, 700.0))
    direction = "smaller" if profile.change < 0 else "larger"
    return (
        f"From the last of {len(profile.names)} {where} to the first, the gradient's norm becomes {factor:.3g} times "
        f"{direction}."
    )


def _notes(profile: Profile) -> tuple[str, ...]:
    notes = []
    if profile.zero:
        notes.append(f"{profile.zero:.0%} of the examples give a gradient of exactly zero everywhere.")
    if 0 < profile.blocked <= 0.5:
        notes.append(
            f"For {profile.blocked:.0%} of the examples the gradient is exactly zero at the first layer or step; they "
            "are not in the fit."
        )
    if profile.skipped:
        notes.append(
            f"No gradient reaches {', '.join(profile.skipped[:5])}{' and more' if len(profile.skipped) > 5 else ''}, but "
            "it passes beside them: branches that start at zero, left out of the fit."
        )
    return tuple(notes)


def _curve(name: str, profile: Profile) -> Curve:
    kept = thin(len(profile.names), 500)
    x = [i + 1 for i in kept]
    means, errors = [profile.means[i] for i in kept], [1.96 * profile.errors[i] for i in kept]
    half = math.log(10)
    line = Line(
        "mean over examples",
        numbers(x),
        numbers([mean / half for mean in means]),
        numbers([(mean - error) / half for mean, error in zip(means, errors, strict=True)]),
        numbers([(mean + error) / half for mean, error in zip(means, errors, strict=True)]),
    )
    last = profile.means[-1] / half
    return Curve(
        f"Back-propagated gradient over {name}",
        Axis(name if name != "layers" else "weight layer, input to output"),
        Axis("log10 of squared gradient norm"),
        (line,),
        (Marker("last", last),),
        tuple(profile.names[i] for i in kept) if len(kept) <= 40 else (),
        caption="A level line is healthy. Falling to the left: gradients vanish. Rising to the left: they explode.",
    )


def _parameter_table(bench: Workbench) -> tuple[Detail, ...]:
    rows = []
    for name, gradient in bench.gradient().items():
        weights = bench.specimen.trainable[name].detach().double()
        size, norm = float(gradient.norm()), float(weights.norm())
        rows.append((name, norm, size, size / norm if norm > 0 else math.inf))
    shown = tuple(rows[i] for i in thin(len(rows), 60))
    return (
        Table(
            "Gradient of each parameter",
            ("parameter", "norm of the weights", "norm of the gradient", "ratio"),
            shown,
            "The mean loss's gradient over the training examples; times the learning rate, the ratio is the relative "
            "change of that parameter in one full-batch step.",
        ),
    )


def _remedies(verdict: Verdict, change: float, over_time: bool) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    clip = Remedy("Clip the gradient's norm while training.", "torch.nn.utils.clip_grad_norm_")
    if over_time:
        keep = Remedy(
            "Start the recurrent weights orthogonal, so that they keep the length of what they carry.",
            "torch.nn.init.orthogonal_",
            "vanishing_gradients",
        )
        gate = Remedy(
            "Start the forget gate open: a bias of 1 or more in an LSTM lets the cell remember.",
            "torch.nn.LSTM",
        )
        return (clip, keep) if change > 0 else (gate, keep)
    initialise = Remedy(
        "Initialise the weights so that lengths are kept: orthogonal, with the gain that the activation asks for.",
        "torchstone.init.apply",
        "vanishing_gradients",
        "init=orthogonal",
    )
    skip = Remedy(
        "Add residual connections around pairs of layers: their Jacobian is I + J.",
        "torchstone.layers.residual.Residual",
        "residual_networks_train",
        "skip=residual",
    )
    if change > 0:
        return (initialise, clip, skip)
    return (initialise, skip, Remedy("Add normalisation layers.", "torch.nn.LayerNorm", trial="norm=layer"))


INSTRUMENT = GradientFlow
