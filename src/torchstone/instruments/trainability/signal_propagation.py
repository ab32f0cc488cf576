"""Do signals and gradients survive the depth, and do two inputs stay apart, as theory says of these weights?"""

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
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation
from torchstone.workbench.propagation import KINDS, Propagation

# Networks train up to about six depth scales, e-folds of signal or gradient (Schoenholz et al. 2017, section 5).
TRAINABLE_DEPTH_SCALES = 6.0
_GROUPS = 8
_WORDS = {
    "variance": "the variance of the signal",
    "gradient": "the squared gradient",
    "difference": "the difference between examples",
}


@dataclass(frozen=True)
class SignalPropagation:
    r"""The largest change over depth, in e-folds, of three things that a network must keep to be trained.

    The variance q of each layer's pre-activations; the mean squared gradient of an example's loss there; and 1 - c, c the
    mean cosine of two examples' pre-activations: where it vanishes, all inputs look alike to the last layers. Each is
    compared with mean-field theory where the activation of a layer goes straight into the next one:
    q' = sigma_w^2 E[phi(z)^2] + sigma_b^2, c' = C(c), and the gradient's factor chi = sigma_w^2 E[phi'(z)^2], whose depth
    scale is xi = 1 / |log chi|. Measured now and at initialisation; judged there where it is known. Other instruments
    judge the trained network: `gradient_flow` its gradients, `activation_health` its units.

    Cost: up to sixteen forward and four backward passes over `examples` examples. Bias: none in what is measured; the
    predictions are those of wide layers with independent weights, without the edges of zero padding.
    Source: Poole et al. 2016; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, sections 3 to 5.
    """

    META: ClassVar[Meta] = Meta(
        id="signal_propagation",
        question=Question.TRAINABILITY,
        title="Signal propagation",
        asks="Do signals and gradients survive the depth, and do inputs stay apart?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="e-folds over depth",
        source="Poole et al. 2016; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017",
    )
    examples: int = 128

    def __post_init__(self) -> None:
        require_count(self, "examples", 2, 100_000)

    def measure(self, bench: Workbench) -> Reading:
        """Follow a sample of examples through the layers, now and at initialisation."""
        rows = bench.sample("train", self.examples, self.META.id)
        start, notes = at_initialisation(bench.specimen)
        now = Propagation.of(bench.specimen, rows)
        before = Propagation.of(start, rows) if start is not None else None
        judged = before if before is not None else now
        changes = {kind: judged.change(kind) for kind in KINDS}
        worst = worst_of(changes)
        if worst is None:
            raise NotApplicableError("needs two dense or convolution layers that signals of examples pass")
        value = changes[worst]
        return Reading.of(
            self.META,
            value=value,
            uncertainty=uncertainty(start if start is not None else bench.specimen, rows, worst, value),
            verdict=judge(changes, known=before is not None),
            headline=_headline(changes, before is not None, judged),
            explanation=(
                "Mean square of each layer's pre-activations and of the loss gradient there, and one minus the mean cosine of "
                "two examples' pre-activations. The value is the change over the hidden layers, in e-folds, of the one that "
                "changes most. Predictions are mean-field theory's for these weights' mean squares."
            ),
            remedies=_remedies(changes),
            details=_details(now, before),
            notes=(f"{len(rows)} training examples.", *notes),
        )


def worst_of(changes: dict[str, float]) -> str | None:
    """The kind with the largest harmful change; None where none is known. Inputs that separate are no harm."""
    known = {kind: _harm(kind, change) for kind, change in changes.items() if not math.isnan(change)}
    return max(known, key=lambda kind: known[kind]) if known else None


def _harm(kind: str, change: float) -> float:
    return max(0.0, -change) if kind == "difference" else abs(change)


def judge(changes: dict[str, float], known: bool) -> Verdict:
    """Judge the changes at initialisation; where that is not known, those of now are informative.

    Args:
        changes: E-folds by kind; NaN for what is not known.
        known: Whether they are of the initial state.

    Returns:
        Poor where one is beyond 6 e-folds, attention beyond 3.
    """
    threshold = f"every change within {TRAINABLE_DEPTH_SCALES / 2:g} e-folds at initialisation (poor: {TRAINABLE_DEPTH_SCALES:g})"
    source = (
        "Schoenholz et al. 2017, section 5: trainable up to about 6 depth scales; attention at half of that"
    )
    worst = worst_of(changes)
    if worst is None:
        return Verdict(Level.INFORMATIVE, "nothing to compare", threshold, source)
    size, reason = _harm(worst, changes[worst]), _change_words(worst, changes[worst])
    if not known:
        return Verdict(Level.INFORMATIVE, f"{reason}; the initial state is not known", threshold, source)
    if size > TRAINABLE_DEPTH_SCALES:
        return Verdict(Level.POOR, reason, threshold, source, min(1.0, 0.8 + size / 500))
    level = Level.ATTENTION if size > TRAINABLE_DEPTH_SCALES / 2 else Level.GOOD
    return Verdict(level, reason, threshold, source)


def _change_words(kind: str, change: float) -> str:
    if math.isinf(change):
        return f"{_WORDS[kind]} {'overflows' if (change > 0) == (kind == 'variance') else 'vanishes'}"
    return f"{_WORDS[kind]} changes by {_factor(change)} from the first to the last hidden layer"


def _factor(change: float) -> str:
    return f"a factor {math.exp(max(min(change, 700.0), -700.0)):.2g}"


def _headline(changes: dict[str, float], known: bool, judged: Propagation) -> str:
    parts = [
        f"{_WORDS[kind]} {{}}by {_factor(change)}"
        for kind, change in changes.items()
        if math.isfinite(change)
    ]
    when = "At initialisation" if known else "Now"
    broken = [_change_words(kind, change) for kind, change in changes.items() if math.isinf(change)]
    whole = (
        ["over the hidden layers " + ", ".join(parts).replace("{}", "changes ", 1).replace("{}", "")]
        if parts
        else []
    )
    text = "; ".join([*broken, *whole])
    scale = judged.depth_scale
    depth = (
        ""
        if math.isnan(scale)
        else f"; depth scale {scale:.3g} layers"
        if scale < 1e4
        else "; at criticality"
    )
    return f"{when}, {text}{depth}."


def uncertainty(specimen: Specimen, rows: Tensor, kind: str, value: float) -> Uncertainty | None:
    """Of the change of one kind, from the spread of eight groups of examples, by Student's t."""
    if len(rows) < 4 * _GROUPS or not math.isfinite(value):
        return None
    groups = [Propagation.of(specimen, rows[i::_GROUPS]).change(kind) for i in range(_GROUPS)]
    found = torch.tensor(groups, dtype=torch.float64)
    if not bool(found.isfinite().all()):
        return None
    from scipy.stats import t

    error = float(found.std()) / _GROUPS**0.5
    half = float(t.ppf(0.975, _GROUPS - 1)) * error
    return Uncertainty(
        value - half, value + half, "examples", "Student's t over eight groups of examples, 95%", 0.95, error
    )


_CURVES = {
    "variance": (
        "Variance of pre-activations",
        "mean square",
        "A level line is healthy. Falling: the signal dies out; rising: it blows up.",
    ),
    "difference": (
        "Difference between two examples",
        "1 - correlation",
        "Falling towards the output: different inputs come to look alike, and nothing can be learnt behind that layer.",
    ),
    "gradient": (
        "Gradient of an example's loss",
        "mean squared norm",
        "A level line is healthy. Falling to the left: gradients vanish; rising: they explode.",
    ),
}


def _details(now: Propagation, before: Propagation | None) -> tuple[Detail, ...]:
    details: list[Detail] = []
    states = {"now": now} if before is None else {"now": now, "at initialisation": before}
    judged = before if before is not None else now
    kept = thin(len(now.names), 200)
    ticks = tuple(now.names) if len(now.names) <= 40 else ()
    for kind, (title, axis, caption) in _CURVES.items():
        lines = [_line(name, state.measured(kind), kept) for name, state in states.items()]
        lines.append(_line(f"mean-field prediction, {list(states)[-1]}", judged.expected(kind), kept))
        drawn = tuple(line for line in lines if line is not None)
        if drawn:
            markers = (Marker("variance one", 1.0),) if kind == "variance" else ()
            details.append(
                Curve(
                    title,
                    Axis("layer, input to output"),
                    Axis(axis, log=True),
                    drawn,
                    markers,
                    ticks,
                    caption,
                )
            )
    return (*details, _table(judged, before is not None, kept))


def _line(name: str, values: list[float], kept: list[int]) -> Line | None:
    points = [(i + 1, values[i]) for i in kept if 0 < values[i] < math.inf]
    return (
        Line(name, numbers(x for x, _ in points), numbers(y for _, y in points)) if len(points) > 1 else None
    )


def _table(judged: Propagation, known: bool, kept: list[int]) -> Table:
    rows = tuple(
        (
            judged.layers[i].name,
            judged.layers[i].activation or "none",
            judged.layers[i].weight_variance,
            judged.layers[i].bias_variance,
            judged.layers[i].variance,
            _shown(judged.layers[i].correlation),
            _shown(judged.gradients[i]),
            _shown(judged.factors[i]),
            _shown(1 / abs(math.log(judged.factors[i])))
            if judged.factors[i] > 0 and judged.factors[i] != 1
            else None,
        )
        for i in kept
    )
    columns = (
        "layer",
        "activation behind",
        "sigma_w²",
        "sigma_b²",
        "variance q",
        "correlation c",
        "squared gradient norm",
        "chi",
        "depth scale (layers)",
    )
    caption = "Chi and depth scale where the activation goes straight into the next layer; chi = 1 is the edge of chaos."
    return Table("Layers " + ("at initialisation" if known else "now"), columns, rows, caption)


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else value


def _remedies(changes: dict[str, float]) -> tuple[Remedy, ...]:
    worst = worst_of(changes)
    if worst is None or _harm(worst, changes[worst]) <= TRAINABLE_DEPTH_SCALES / 2:
        return ()
    weights = Remedy(
        "Initialise at the edge of chaos: weights with the gain of their activation.",
        "torchstone.init.apply",
        "vanishing_gradients",
        "init=kaiming",
    )
    blocks = Remedy(
        "Put layers into residual blocks: what passes the shortcut keeps examples apart.",
        "torchstone.layers.residual.Residual",
        "residual_jacobian",
        "skip=residual",
    )
    norm = Remedy(
        "Normalise over the batch, which pulls examples apart.", "torch.nn.BatchNorm1d", trial="norm=batch"
    )
    return (blocks, norm, weights) if worst == "difference" else (weights, blocks, norm)


INSTRUMENT = SignalPropagation
