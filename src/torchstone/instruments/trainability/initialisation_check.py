"""Do the initial weights suit the activations behind them: which scheme does each layer follow, and which should it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError, NumericalError, SettingError
from torchstone.init import gain, standard_deviation
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation
from torchstone.workbench.layer_signals import LayerSignal, layer_signals

# Networks train up to about six depth scales, e-folds of the signal's variance (Schoenholz et al. 2017, section 5).
TRAINABLE_DEPTH_SCALES = 6.0
_KURTOSIS = {"uniform": 1.8, "truncated normal": 2.37, "normal": 3.0}
_SAME = 0.02


@dataclass(frozen=True)
class InitialisationCheck:
    r"""Change of the signal's variance over depth that the initial weights' size predicts, in e-folds.

    A layer with weights of mean square v has sigma_w^2 = fan_in v; the activation behind it keeps the variance at
    sigma_w^2 = gain^2 = 1 / E[phi(u)^2], u ~ N(0, 1). The value is the sum of log(sigma_w^2 / gain^2) over the layers whose
    activation's output goes straight into the next layer: elsewhere (normalisation, shortcuts, pooling) the size of the
    weights alone does not decide. For every layer the standard deviation is compared with those of the known schemes,
    and its distribution and orthogonality are told.

    Cost: three forward passes over `examples` examples, to see which activation follows which layer. Bias: none; inputs
    that are not standardised, and zero padding, are not in the prediction.
    Source: LeCun, Bottou, Orr & Muller 1998, section 4.6; Glorot & Bengio 2010; He et al. 2015; Saxe et al. 2014.
    """

    META: ClassVar[Meta] = Meta(
        id="initialisation_check",
        question=Question.TRAINABILITY,
        title="Initialisation",
        asks="Do the initial weights suit the activations behind them?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="e-folds of the variance over depth",
        source="LeCun et al. 1998, section 4.6; Glorot & Bengio 2010; He et al. 2015; Saxe et al. 2014",
    )
    examples: int = 16

    def __post_init__(self) -> None:
        require_count(self, "examples", 2, 10_000)

    def measure(self, bench: Workbench) -> Reading:
        """Look at the weights before training where they are known, else at those of now."""
        start, notes = at_initialisation(bench.specimen)
        rows = bench.sample("train", self.examples, self.META.id)
        known = start is not None
        layers = first_calls(layer_signals(start if start is not None else bench.specimen, rows))
        if not layers:
            raise NotApplicableError("needs dense or convolution layers with one output per example")
        found = [LayerCheck.of(layer) for layer in layers]
        decisive = [check for check in found if check.decisive]
        value = math.fsum(check.log_ratio for check in decisive) if decisive else None
        finite = value is None or math.isfinite(value)
        verdict = judge(value, len(decisive), known)
        return Reading.of(
            self.META,
            value=value if finite else None,
            verdict=verdict,
            headline=_headline(found, decisive, value, known),
            explanation=(
                "sigma_w is the root of fan_in times the mean square of the weights; its gain is what keeps the variance of a "
                "standard normal signal through the activation behind the layer. The value sums log(sigma_w^2 / gain^2) "
                "over the layers whose activation goes straight into the next one."
            ),
            remedies=_remedies(verdict),
            details=_details(found, known),
            notes=notes,
        )


def first_calls(signals: list[LayerSignal]) -> list[LayerSignal]:
    """The first call of each layer."""
    seen: dict[nn.Module, LayerSignal] = {}
    for signal in signals:
        seen.setdefault(signal.layer, signal)
    return list(seen.values())


@dataclass(frozen=True)
class LayerCheck:
    """What one layer's weights look like, and what they should.

    Args:
        name: Of the layer.
        shape: Of its weight.
        activation: Behind it, "none" where there is none.
        deviation: Root mean square of the weights.
        sigma: sigma_w.
        gain: What the activation asks sigma_w to be.
        scheme: Which schemes give weights of this size.
        distribution: Which of the usual ones, "" for few weights.
        input_square: Mean square of what enters.
        decisive: Whether its activation goes straight into the next layer.
    """

    name: str
    shape: tuple[int, ...]
    activation: str
    deviation: float
    sigma: float
    gain: float
    scheme: str
    distribution: str
    input_square: float
    decisive: bool

    @classmethod
    def of(cls, signal: LayerSignal) -> LayerCheck:
        """Of one layer."""
        weight = signal.layer.weight
        assert isinstance(weight, Tensor)
        values = weight.detach().double().cpu()
        sigma, wanted = signal.weight_variance**0.5, wanted_gain(signal)
        return cls(
            name=signal.name,
            shape=tuple(weight.shape),
            activation=signal.activation or "none",
            deviation=float(values.square().mean().sqrt()) if values.numel() else 0.0,
            sigma=sigma,
            gain=wanted,
            scheme=scheme_of(signal.layer, values, wanted),
            distribution=distribution_of(values),
            input_square=signal.input_square,
            decisive=signal.plain and bool(signal.activation) and not math.isnan(wanted),
        )

    @property
    def log_ratio(self) -> float:
        """Log of sigma_w^2 over gain^2."""
        return 2 * math.log(self.sigma / self.gain) if self.sigma > 0 else -math.inf


def wanted_gain(signal: LayerSignal) -> float:
    """The gain of the activation behind a layer; NaN where there is none to compute."""
    try:
        return gain(signal.function)
    except (NumericalError, SettingError, RuntimeError):
        return math.nan


def scheme_of(layer: nn.Module, weight: Tensor, wanted: float) -> str:
    """The schemes whose standard deviation this weight has, to 2% or three standard errors of a sample's."""
    if weight.numel() == 0 or not bool(weight.any()):
        return "zeros"
    if (factor := orthogonal_factor(weight)) is not None:
        return f"orthogonal, gain {factor:.3g}"
    centred = weight - weight.mean()
    kurtosis = float(centred.pow(4).mean() / centred.square().mean().square()) if weight.numel() > 1 else 3.0
    error = math.sqrt(max(kurtosis - 1, 0.0) / (4 * weight.numel()))
    size = float(weight.square().mean().sqrt())
    known = {"LeCun": standard_deviation(layer, "lecun"), "Xavier": standard_deviation(layer, "xavier")}
    if not math.isnan(wanted) and abs(wanted - 1) > 1e-9:
        known["Kaiming"] = standard_deviation(layer, "kaiming", wanted)
        known["Kaiming, fan out"] = standard_deviation(layer, "kaiming_fan_out", wanted)
        known["Xavier with gain"] = standard_deviation(layer, "xavier", wanted)
    known["PyTorch's default"] = standard_deviation(layer, "lecun") / math.sqrt(3)
    reach = max(_SAME, 3 * error)
    names = [name for name, deviation in known.items() if abs(math.log(size / deviation)) < reach]
    if names:
        return " or ".join(names[:3])
    nearest = min(known, key=lambda name: abs(math.log(size / known[name])))
    return f"none; {size / known[nearest]:.3g} times {nearest}"


def orthogonal_factor(weight: Tensor) -> float | None:
    """The gain of a weight with orthogonal rows (or columns) of one length, as a matrix; None for others."""
    matrix = weight.flatten(1) if weight.ndim > 1 else weight[None]
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if matrix.shape[0] < 2 or matrix.numel() > 2**24:
        return None
    gram = matrix @ matrix.T
    mean = float(gram.diagonal().mean())
    distance = float((gram - mean * torch.eye(len(gram), dtype=gram.dtype)).norm()) / (
        mean * len(gram) ** 0.5
    )
    return math.sqrt(mean) if distance < 0.01 else None


def distribution_of(weight: Tensor) -> str:
    """The usual distribution whose kurtosis is nearest; "" for fewer than 500 weights."""
    if weight.numel() < 500 or not bool(weight.any()):
        return ""
    centred = weight - weight.mean()
    kurtosis = float(centred.pow(4).mean() / centred.square().mean().square())
    name = min(_KURTOSIS, key=lambda name: abs(_KURTOSIS[name] - kurtosis))
    return name if abs(_KURTOSIS[name] - kurtosis) < 0.35 else "heavy tails" if kurtosis > 3 else "other"


def judge(change: float | None, layers: int, known: bool) -> Verdict:
    """Judge the predicted e-folds of the variance over `layers` layers; only of weights known to be the initial ones.

    Returns:
        Poor beyond 6 e-folds, attention beyond 3.
    """
    threshold = (
        f"predicted change of the variance within {TRAINABLE_DEPTH_SCALES / 2:g} e-folds (poor: "
        f"{TRAINABLE_DEPTH_SCALES:g})"
    )
    source = (
        "Schoenholz et al. 2017, section 5: trainable up to about 6 depth scales; attention at half of that"
    )
    if change is None:
        reason = "no layer's activation goes straight into the next layer, so the weights' size alone decides nothing"
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    if not known:
        reason = "the initial state is not known; training changes the size of weights"
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    if change == -math.inf:
        return Verdict(Level.POOR, "a layer starts at zero, so nothing passes", threshold, source)
    reason = f"the weights' size predicts a change of e^{change:.2g} over {layers} layers"
    if not abs(change) <= TRAINABLE_DEPTH_SCALES:
        return Verdict(Level.POOR, reason, threshold, source)
    level = Level.ATTENTION if abs(change) > TRAINABLE_DEPTH_SCALES / 2 else Level.GOOD
    return Verdict(level, reason, threshold, source)


def _headline(found: list[LayerCheck], decisive: list[LayerCheck], value: float | None, known: bool) -> str:
    schemes = [check.scheme for check in found]
    common = max(dict.fromkeys(schemes), key=schemes.count)
    when = "Before training" if known else "Now"
    start = f"{when}, {schemes.count(common)} of {len(found)} layers have weights of the size of {common}"
    if common.startswith("none"):
        start = f"{when}, {sum(one.startswith('none') for one in schemes)} of {len(found)} layers follow no known scheme"
    if value is None:
        return f"{start}."
    factor = math.exp(max(min(value, 700.0), -700.0)) if math.isfinite(value) else 0.0
    return f"{start}; through {len(decisive)} activations they change the signal's variance by a factor {factor:.3g}."


def _details(found: list[LayerCheck], known: bool) -> tuple[Detail, ...]:
    shown = [found[i] for i in thin(len(found), 200)]
    rows = tuple(
        (
            check.name,
            "x".join(map(str, check.shape)),
            check.activation,
            check.deviation,
            check.sigma,
            check.gain,
            check.scheme,
            check.distribution,
            check.input_square,
            "yes" if check.decisive else "no",
        )
        for check in shown
    )
    columns = (
        "layer",
        "weight",
        "activation behind",
        "std of the weights",
        "sigma_w",
        "gain it needs",
        "scheme of that size",
        "distribution",
        "mean square of its input",
        "judged",
    )
    caption = (
        "sigma_w^2 is fan_in times the mean square of the weights; it should be the gain squared. An input of mean square 1 to "
        "the first layer is standardised. Not judged: layers with normalisation, shortcuts or pooling behind them."
    )
    table = Table("Weights " + ("before training" if known else "now"), columns, rows, caption)
    positive = [check for check in shown if check.sigma > 0 and not math.isnan(check.gain)]
    if len(positive) < 2:
        return (table,)
    x = numbers(range(1, len(positive) + 1))
    curve = Curve(
        "Size of the weights over the gain they need",
        Axis("layer, input to output"),
        Axis("sigma_w / gain", log=True),
        (Line("layers", x, numbers(check.sigma / check.gain for check in positive)),),
        (Marker("keeps the variance", 1.0),),
        tuple(check.name for check in positive) if len(positive) <= 40 else (),
        caption="At 1 a layer keeps the variance of the signal; PyTorch's default is 0.58 without an activation and 0.41 with ReLU.",
    )
    return (curve, table)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level not in (Level.ATTENTION, Level.POOR):
        return ()
    return (
        Remedy(
            'Initialise by scheme and activation (scheme="kaiming"): each layer gets the gain its activation needs.',
            "torchstone.init.apply",
            "vanishing_gradients",
            "init=kaiming",
        ),
        Remedy(
            "Or set each layer to unit variance on a batch of the data, which also sees padding and shortcuts.",
            "torchstone.init.lsuv",
            trial="init=lsuv",
        ),
    )


INSTRUMENT = InitialisationCheck
