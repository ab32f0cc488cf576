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
        signals = backward_signals(bench.specimen, self.examples)
        profiles = {"layers": _layer_profile(signals.layers)}
        for name, squared in signals.steps.items():
            profiles[f"time steps of {name}"] = Profile.of(list(map(str, range(squared.shape[1]))), squared)
        known = {name: profile for name, profile in profiles.items() if profile is not None}
        if not known:
            raise NotApplicableError("needs at least two layers with weights that gradients reach")
        where, worst = max(known.items(), key=lambda item: abs(item[1].change))
        verdict = judge(worst.change)
        return Reading.of(
            self.META,
            value=worst.change,
            uncertainty=Uncertainty.from_standard_error(
                worst.change, worst.standard_error, covers="examples"
            ),
            verdict=verdict,
            headline=_headline(where, worst),
            explanation=(
                "The squared norm of the loss gradient at each weight layer's output, as the mean of its logarithm over "
                "examples; the value is its fitted change from the last layer to the first, in units of e-folds "
                "(depth scales)."
            ),
            remedies=_remedies(verdict, worst.change),
            details=(*(_curve(name, profile) for name, profile in known.items()), *_parameter_table(bench)),
            notes=()
            if worst.zero == 0
            else (f"{worst.zero:.0%} of the examples give a gradient of exactly zero.",),
        )


@dataclass(frozen=True)
class Profile:
    """Mean log squared gradient norm along a chain of layers or time steps, and the fitted line over it."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    change: float
    standard_error: float
    zero: float

    @classmethod
    def of(cls, names: list[str], squared: Tensor) -> Profile | None:
        """From squared norms (N, L), in order from input to output; None for fewer than two columns or examples.

        Returns:
            The fit, whose `change` is from the last column to the first.
        """
        alive = (squared > 0).all(1)
        logs = squared[alive].double().log()
        count, depth = logs.shape
        if depth < 2 or count < 2:
            return None
        position = torch.arange(depth, dtype=torch.float64)
        centred = position - position.mean()
        slopes = (logs @ centred) / centred.square().sum()  # one line an example
        changes = -slopes * (depth - 1)
        return cls(
            names=tuple(names),
            means=numbers(logs.mean(0)),
            errors=numbers(logs.std(0) / math.sqrt(count)),
            change=float(changes.mean()),
            standard_error=float(changes.std() / math.sqrt(count)),
            zero=1 - count / len(squared),
        )


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
    factor = math.exp(min(abs(profile.change) / 2, 700.0))
    direction = "smaller" if profile.change < 0 else "larger"
    return (
        f"From the last of {len(profile.names)} {where} to the first, the gradient's norm becomes {factor:.3g} times "
        f"{direction}."
    )


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


def _remedies(verdict: Verdict, change: float) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    initialise = Remedy(
        "Initialise the weights so that the variance is kept: He for ReLU, orthogonal with gain for tanh.",
        "torch.nn.init.kaiming_normal_",
        "vanishing_gradients",
    )
    skip = Remedy("Add residual connections around pairs of layers: their Jacobian is I + J.")
    if change > 0:
        return (
            initialise,
            Remedy("Clip the gradient's norm while training.", "torch.nn.utils.clip_grad_norm_"),
            skip,
        )
    return (initialise, skip, Remedy("Add normalisation layers.", "torch.nn.LayerNorm"))


INSTRUMENT = GradientFlow
