"""Are units dead or saturated, and does the signal keep its variance through the layers?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchstone.batches import tensors
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.activations import Shape, watching_activations

# The forward signal is given the same six depth scales as the backward one: its variance may change by e^6.
DRIFT_LIMIT = 6.0


@dataclass(frozen=True)
class ActivationHealth:
    """Share of units that are dead or saturated, and the drift of the signal's size over the layers.

    A unit (a channel of a map) is dead when its activation is flat at every input it gets, over all examples and
    positions: no gradient passes through it. It is saturated on an example when its output lies within `margin` of a
    bound of a two-sided activation (tanh, sigmoid); sigmoids whose outputs are multiplied with something are gates,
    which may rest at their bounds, and are shown but not judged. The drift is the fitted change of the logarithm of the
    mean square of what enters the weight layers, from the second layer (the first gets the data) to the last.

    Cost: one forward pass. Bias: a unit dead on these examples may live on others; the notes say how rarely.
    Source: LeCun, Bottou, Orr & Muller 1998, section 4.3 (variance one); Glorot & Bengio 2010, section 3 (saturation);
    Lu, Shin, Su & Karniadakis 2019 (dead ReLUs).
    """

    META: ClassVar[Meta] = Meta(
        id="activation_health",
        question=Question.TRAINABILITY,
        title="Activation health",
        asks="Are units dead or saturated?",
        cost=CostClass.INSTANT,
        needs=(Need.TRAIN,),
        unit="share of units",
        source="LeCun, Bottou, Orr & Muller 1998; Glorot & Bengio 2010; Lu, Shin, Su & Karniadakis 2019",
    )
    margin: float = 0.01
    """Distance from a bound, as a share of the activation's range, within which it counts as saturated."""

    def __post_init__(self) -> None:
        require_between(self, "margin", 1e-6, 0.25)

    def measure(self, bench: Workbench) -> Reading:
        """Watch every activation function and every weight layer during one pass over the training examples."""
        activations, signal = _observe(bench, self.margin)
        if not activations and len(signal) < 2:
            raise NotApplicableError("needs elementwise activations or at least two weight layers")
        units = sum(one.units for one in activations.values())
        dead = sum(one.dead for one in activations.values()) / units if units else 0.0
        worst_dead = max((one.dead / one.units for one in activations.values()), default=0.0)
        saturated = max((one.saturated for one in activations.values() if one.judged), default=0.0)
        drift = signal_drift([square.mean for square in signal.values()])
        verdict = judge(worst_dead, saturated, drift)
        examples = bench.specimen.size("train")
        return Reading.of(
            self.META,
            value=dead,
            verdict=verdict,
            headline=_headline(activations, dead, saturated, drift),
            explanation=(
                "Dead: flat at every input, so no gradient passes. Saturated: output within "
                f"{self.margin:.0%} of a bound of tanh or sigmoid, gates apart. Drift: change of the mean square of what "
                "enters the weight layers, from the second to the last, as a logarithm."
            ),
            remedies=_remedies(verdict, worst_dead, saturated, drift),
            details=_details(activations, signal),
            notes=(
                f"A unit that is dead on {examples:,} examples is alive on fewer than {3 / examples:.2%} of new ones, with "
                "95% confidence (rule of three).",
            ),
        )


def judge(dead: float, saturated: float, drift: float) -> Verdict:
    """Judge the worst layer's dead share, the worst layer's saturated share and the drift of the variance.

    Returns:
        Poor where half of a layer is lost or the variance drifts by e^6, attention at half of that.
    """
    threshold = f"no layer with more than 25% dead or saturated units (poor: 50%); variance drift below e^{DRIFT_LIMIT:g}"
    source = (
        "drift: Schoenholz et al. 2017, section 5; shares: convention of this report after Glorot & Bengio 2010, "
        "figure 2"
    )
    problems = [
        (f"{dead:.0%} of a layer's units are dead", dead, 0.25, 0.5),
        (f"a layer is saturated {saturated:.0%} of the time", saturated, 0.25, 0.5),
        (_drift_words(drift), abs(drift), DRIFT_LIMIT / 2, DRIFT_LIMIT),
    ]
    poor = [words for words, value, _, limit in problems if not value <= limit]
    if poor:
        return Verdict(Level.POOR, "; ".join(poor), threshold, source)
    warned = [words for words, value, limit, _ in problems if value > limit]
    if warned:
        return Verdict(Level.ATTENTION, "; ".join(warned), threshold, source)
    return Verdict(Level.GOOD, "units are alive and the signal keeps its size", threshold, source)


def _drift_words(drift: float) -> str:
    if drift == -math.inf:
        return "no signal reaches the last layer"
    if not math.isfinite(drift):
        return "the signal overflows"
    return f"the signal's mean square changes by e^{drift:.1f}"


def signal_drift(mean_squares: list[float]) -> float:
    """Fitted change of log mean square from the second layer's input to the last one's; 0 for fewer than three layers.

    The first layer's input is the data, in a unit of its own. Inputs of exactly zero belong to branches that start at
    zero and say nothing, except at the last layer: then nothing arrives.
    """
    values = torch.tensor(mean_squares[1:], dtype=torch.float64)
    if len(values) < 2:
        return 0.0
    if values[-1] == 0:
        return -math.inf
    if not bool(values.isfinite().all()):
        return math.inf
    position = torch.arange(len(values), dtype=torch.float64)[values > 0]
    logs = values[values > 0].log()
    if len(logs) < 2:
        return 0.0
    centred = position - position.mean()
    return float((logs @ centred) / centred.square().sum() * (len(values) - 1))


@dataclass
class _Activation:
    """Running record of one activation function: least and greatest input of each unit, outputs near a bound."""

    shape: Shape
    low: Tensor
    high: Tensor
    near_bound: float = 0.0
    seen: int = 0
    gate: bool = False

    @property
    def units(self) -> int:
        return self.low.numel()

    @property
    def dead(self) -> int:
        return int(self.shape.is_flat(self.low, self.high).sum())

    @property
    def saturated(self) -> float:
        return self.near_bound / self.seen if self.seen else 0.0

    @property
    def judged(self) -> bool:
        return self.seen > 0 and not self.gate


@dataclass
class _MeanSquare:
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass
class _Observation:
    margin: float
    activations: dict[str, _Activation] = field(default_factory=dict)
    signal: dict[str, _MeanSquare] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Names of repeated calls within one batch: name, name#2, ..."""
        self.calls[name] = self.calls.get(name, 0) + 1
        return name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"

    def activation(self, name: str, kind: str, shape: Shape, inputs: Tensor, outputs: Tensor) -> _Activation:
        """Take in one call of an activation on one batch."""
        low, high = inputs.amin(1).float().cpu(), inputs.amax(1).float().cpu()
        key = self.key(name if name.endswith(kind) else f"{name} ({kind})")
        known = self.activations.get(key)
        if known is None or known.low.shape != low.shape:
            known = self.activations[key] = _Activation(shape, low, high)
        known.low, known.high = torch.minimum(known.low, low), torch.maximum(known.high, high)
        if shape.bounds is not None:
            bottom, top = shape.bounds
            reach = self.margin * (top - bottom)
            known.near_bound += float(((outputs < bottom + reach) | (outputs > top - reach)).sum())
            known.seen += outputs.numel()
        return known

    def gate(self, record: _Activation) -> None:
        """Its outputs scale something else."""
        record.gate = True

    def layer(self, name: str, inputs: Iterable[Tensor]) -> None:
        """Take in what enters a weight layer."""
        tensor = next((one for one in inputs if one.is_floating_point() and one.numel()), None)
        if tensor is not None:
            square = self.signal.setdefault(self.key(f"layer {name}"), _MeanSquare())
            square.total += float(tensor.detach().double().square().sum())
            square.count += tensor.numel()


def _observe(bench: Workbench, margin: float) -> tuple[dict[str, _Activation], dict[str, _MeanSquare]]:
    specimen, seen = bench.specimen, _Observation(margin)
    handles = []
    for name, module in specimen.model.named_modules():
        if _is_weight_layer(module):
            hook = lambda _, args, kwargs, name=name: seen.layer(name or "model", tensors([args, kwargs]))
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with specimen.measuring(), watching_activations(specimen.model, seen):
            for batch in specimen.batches("train"):
                seen.calls.clear()
                specimen.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen.activations, {name.removeprefix("layer "): one for name, one in seen.signal.items()}


def _is_weight_layer(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse=False)) and not isinstance(
        module, nn.Embedding | nn.EmbeddingBag
    )


def _headline(activations: dict[str, _Activation], dead: float, saturated: float, drift: float) -> str:
    parts = []
    if activations:
        parts.append(f"{dead:.1%} of the units are dead")
    if any(one.judged for one in activations.values()):
        parts.append(f"the most saturated layer is at its bounds {saturated:.0%} of the time")
    if math.isfinite(drift):
        factor = math.exp(max(min(drift, 700), -700))
        parts.append(f"the signal's mean square changes by a factor {factor:.3g} over depth")
    else:
        parts.append(_drift_words(drift))
    sentence = ", ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _details(
    activations: dict[str, _Activation], signal: dict[str, _MeanSquare]
) -> tuple[Table | Curve, ...]:
    details: list[Table | Curve] = []
    names = [list(signal)[i] for i in thin(len(signal), 500)]
    if len(names) >= 2:
        squares = [max(signal[name].mean, 1e-300) for name in names]
        details.append(
            Curve(
                "Signal through the layers",
                Axis("weight layer, input to output"),
                Axis("mean square of the input", log=True),
                (Line("measured", numbers(range(1, len(names) + 1)), numbers(squares)),),
                (Marker("variance one", 1.0),),
                tuple(names) if len(names) <= 40 else (),
                caption="A level line is healthy (LeCun et al. 1998 aim at 1). Falling: the signal dies out; rising: it "
                "blows up. The first point is the data.",
            )
        )
    if activations:
        shown = [list(activations)[i] for i in thin(len(activations), 60)]
        rows = tuple(
            (
                f"{name}, a gate" if activations[name].gate else name,
                activations[name].units,
                activations[name].dead / activations[name].units,
                _saturation(activations[name]),
            )
            for name in shown
        )
        columns = ("activation", "units", "dead (share)", "saturated (share)")
        details.append(
            Table(
                "Activations",
                columns,
                rows,
                "Dead units pass no gradient on any example examined. Gates may rest at their bounds.",
            )
        )
    return tuple(details)


def _saturation(activation: _Activation) -> float | None:
    return activation.saturated if activation.seen else None


def _remedies(verdict: Verdict, dead: float, saturated: float, drift: float) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    remedies = []
    if dead > 0.25:
        remedies.append(
            Remedy("Lower the learning rate or the biases' step; dead ReLUs rarely come back.", "")
        )
        remedies.append(Remedy("Use an activation without a dead side.", "torch.nn.LeakyReLU"))
    if saturated > 0.25:
        remedies.append(
            Remedy(
                "Start with smaller weights (Xavier) or normalise the layer's inputs.",
                "torch.nn.LayerNorm",
                trial="norm=layer",
            )
        )
    if abs(drift) > DRIFT_LIMIT / 2:
        remedies.append(
            Remedy(
                "Scale the initial weights so that each layer keeps the variance.",
                "torchstone.init.apply",
                "vanishing_gradients",
                "init=kaiming",
            )
        )
    return tuple(remedies)


INSTRUMENT = ActivationHealth
