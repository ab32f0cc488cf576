"""Every bound on a network's test error that can be evaluated from what is on the bench, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from torchstone.bounds.l1_margin import l1_margin_bound
from torchstone.bounds.margin import margins
from torchstone.bounds.network_path_norm import network_path_norm
from torchstone.bounds.parameter_count import network_size, parameter_rate
from torchstone.bounds.piecewise_growth import LayerSize, piecewise_linear_log_growth
from torchstone.bounds.proportion import clopper_pearson, hoeffding
from torchstone.bounds.spectral import Layer, spectral_complexity
from torchstone.bounds.spectral_margin import spectral_margin_bound
from torchstone.bounds.uniform_deviation import occam_deviation
from torchstone.bounds.vc import growth_risk_bound
from torchstone.bounds.weight_size import largest_coordinate_norm, weight_size
from torchstone.errors import NotApplicableError, NumericalError, SettingError, SpecimenError
from torchstone.reading import Need
from torchstone.workbench.chain import ChainLayer, chain
from torchstone.workbench.gaussian_posterior import gaussian_posterior_bound
from torchstone.workbench.workbench import Workbench

_ONE_KINK = {"ReluBackward0", "LeakyReluBackward0"}
# Activations that need not keep 1, so that the constant behind biases goes past them.
_BENT = {"TanhBackward0", "EluBackward0", "GeluBackward0", "SiluBackward0", "HardtanhBackward0"}
_LINEAR = {"NativeBatchNormBackward0", "MeanBackward1", "ConstantPadNdBackward0"}


@dataclass(frozen=True)
class ErrorBound:
    """An upper bound on the test error, or a rate without constants.

    Args:
        name: For a table.
        short: For an axis, a few letters.
        value: On the error; the rate where `rate`. Vacuous from 1 on.
        assumes: What has to hold, a clause.
        held_out: Whether it was read off examples that training has not seen.
        rate: Whether it is an order of magnitude only.
    """

    name: str
    short: str
    value: float
    assumes: str
    held_out: bool = False
    rate: bool = False


@dataclass(frozen=True)
class Skipped:
    """A bound that does not exist for this network, and the reason."""

    name: str
    reason: str


def error_bounds(bench: Workbench, delta: float, draws: int) -> tuple[list[ErrorBound], list[Skipped]]:
    """All bounds that can be evaluated, each with failure probability `delta` of its own.

    Cost: forward passes over training and test data, the spectral norms of the layers, and 7 + `draws` passes for PAC-Bayes.

    Args:
        bench: With class labels and scores.
        delta: Probability of failure of each bound.
        draws: Networks drawn for the PAC-Bayes bound; 0 leaves it out.

    Returns:
        The bounds in no particular order, and what was left out.
    """
    facts = _Facts.of(bench, delta)
    found: list[ErrorBound] = []
    skipped: list[Skipped] = []
    sources: list[tuple[str, Callable[[], Iterator[ErrorBound]]]] = [
        ("test set", lambda: _held_out(facts)),
        ("description length", lambda: _described(facts)),
        ("counting weights (VC)", lambda: _counted(facts)),
        ("rate sqrt(W L ln W / n)", lambda: _rate(facts)),
        ("weight size (l1)", lambda: _weight_size(facts)),
        ("path norm (l1)", lambda: _path_norm(facts)),
        ("spectral margin", lambda: _spectral(facts)),
        ("PAC-Bayes", lambda: _pac_bayes(facts, draws)),
    ]
    for name, source in sources:
        try:
            for bound in source():
                found.append(bound)  # one by one: those before an obstacle count
        except NotApplicableError as answer:
            skipped.append(Skipped(name, answer.reason))
        except (SettingError, NumericalError, SpecimenError) as error:
            skipped.append(Skipped(name, str(error)))
        except OverflowError:
            skipped.append(Skipped(name, "its norms exceed the range of float64"))
    return found, skipped


def layer_sizes(bench: Workbench) -> list[tuple[str, int, float, float]]:
    """Each layer's name, number of weights, largest sum of absolute incoming weights, and spectral norm.

    Of the last layer the sum over all outputs, as in `weight_size`.

    Raises:
        NotApplicableError: The network is no chain of layers.
    """
    if bench.lacks(Need.FLOAT_INPUTS):
        raise NotApplicableError(f"needs {Need.FLOAT_INPUTS}")
    layers = bench.memo(("chain",), lambda: chain(bench.specimen))
    size = weight_size([one.layer for one in layers], [one.activation for one in layers])
    return [
        (one.name, one.layer.weight.numel(), norm, one.layer.norm_bound())
        for one, norm in zip(layers, size.layers, strict=True)
    ]


@dataclass(frozen=True)
class _Facts:
    bench: Workbench
    delta: float
    train_error: float
    n: int
    margins: Tensor
    classes: int

    @classmethod
    def of(cls, bench: Workbench, delta: float) -> _Facts:
        scores, labels = bench.scores("train"), bench.labels("train")
        wrong = float(bench.errors("train").double().mean())
        return cls(bench, delta, wrong, len(labels), margins(scores, labels), scores.shape[1])

    def layers(self) -> list[ChainLayer]:
        if self.bench.lacks(Need.FLOAT_INPUTS):
            raise NotApplicableError(f"needs {Need.FLOAT_INPUTS}")
        return self.bench.memo(("chain",), lambda: chain(self.bench.specimen))

    def inputs(self) -> Tensor:
        return self.bench.inputs("train")


def _held_out(facts: _Facts) -> Iterator[ErrorBound]:
    bench = facts.bench
    if not bench.specimen.has("test"):
        raise NotApplicableError(f"needs {Need.TEST}")
    wrong = bench.errors("test")
    count, n = int(wrong.sum()), len(wrong)
    assumes = "test examples nothing was chosen by"
    # One-sided limits: ends of the intervals at twice the failure probability.
    confidence = 1 - 2 * facts.delta
    exact = clopper_pearson(count, n, confidence).high
    yield ErrorBound("test set, Clopper-Pearson", "Clopper-Pearson", exact, assumes, held_out=True)
    yield ErrorBound(
        "test set, Hoeffding", "Hoeffding", hoeffding(count / n, n, confidence).high, assumes, held_out=True
    )


def _described(facts: _Facts) -> Iterator[ErrorBound]:
    model = facts.bench.specimen.model
    stored = [p for p in model.parameters() if p.requires_grad]
    stored += [b for b in model.buffers() if b.is_floating_point()]
    bits = sum(8 * tensor.element_size() * tensor.numel() for tensor in stored)
    value = facts.train_error + occam_deviation(-bits * math.log(2), facts.n, facts.delta)
    yield ErrorBound(
        "description length",
        "bits",
        value,
        f"architecture fixed beforehand; {bits:,} bits of weights as stored",
    )


def _counted(facts: _Facts) -> Iterator[ErrorBound]:
    layers = facts.layers()
    sizes = []
    for layer in layers:
        odd = [name for name in layer.between if name not in _ONE_KINK | _LINEAR and "Pool" not in name]
        if odd:
            raise NotApplicableError(
                f"the constants are for networks of ReLUs; this one holds {_plain(odd[0])}"
            )
        pairs = layer.maximum * (layer.maximum - 1) // 2
        bias = 0 if layer.layer.bias is None else layer.layer.bias.numel()
        sizes.append(LayerSize(layer.layer.weight.numel() + bias, layer.layer.dimensions[0] * (1 + pairs)))
    sizes[-1] = LayerSize(sizes[-1].weights, max(1, facts.classes - 1))
    growth = piecewise_linear_log_growth(sizes, facts.n)
    bound = growth_risk_bound(facts.train_error, growth, facts.n, facts.delta)
    assumes = "architecture of ReLUs fixed beforehand, any weights"
    if growth >= facts.n * math.log(2) * (1 - 1e-12):
        assumes += "; as far as counting knows it can give these examples any labels"
    yield ErrorBound("counting weights (VC)", "VC count", bound.value, assumes)


def _rate(facts: _Facts) -> Iterator[ErrorBound]:
    size = network_size(facts.bench.specimen.model)
    if size.weights < 2 or size.layers < 1:
        raise NotApplicableError("needs two weights and a layer")
    value = parameter_rate(size.weights, size.layers, facts.n)
    assumes = f"no constant, so no bound: W = {size.weights:,}, L = {size.layers}"
    yield ErrorBound("rate sqrt(W L ln W / n)", "W L ln W", facts.train_error + value, assumes, rate=True)


def _weight_size(facts: _Facts) -> Iterator[ErrorBound]:
    layers = facts.layers()
    size = weight_size([one.layer for one in layers], [one.activation for one in layers])
    value = _l1_bound(facts, layers, size.value, size.augmented)
    yield ErrorBound(
        "weight size (l1)",
        "weight size",
        value,
        "activations phi(0) = 0; any width, weights of any norm (grid)",
    )


def _path_norm(facts: _Facts) -> Iterator[ErrorBound]:
    layers = facts.layers()
    for layer in layers:
        odd = [name for name in layer.between if name not in _ONE_KINK | _LINEAR and "Pool" not in name]
        if odd or layer.activation > 1:
            held = _plain(odd[0]) if odd else "a slope above 1"
            raise NotApplicableError(f"paths are for networks of ReLUs; this one holds {held}")
    specimen = facts.bench.specimen
    batch = next(specimen.batches("train"))
    inputs = specimen.objective.inputs(batch)
    assert inputs is not None
    outputs = lambda model, x: specimen.objective.outputs(model, specimen.objective.with_inputs(batch, x))
    norm = network_path_norm(specimen.model, inputs, forward=outputs)
    augmented = any(one.layer.bias is not None for one in layers)
    value = _l1_bound(facts, layers, norm, augmented)
    yield ErrorBound(
        "path norm (l1)", "path norm", value, "network of ReLUs; any width, weights of any norm (grid)"
    )


def _l1_bound(facts: _Facts, layers: Sequence[ChainLayer], norm: float, augmented: bool) -> float:
    inputs = facts.inputs()
    carried = augmented and any(set(one.between) & _BENT for one in layers)
    return l1_margin_bound(
        facts.margins,
        norm,
        largest_coordinate_norm(inputs, constant=augmented),
        inputs.shape[1] + int(augmented),
        depth=len(layers),
        outputs=max(2, layers[-1].layer.dimensions[0]),
        maxima=[one.maximum for one in layers if one.maximum > 1],
        branches=3 if carried else 2,
        delta=facts.delta,
    ).value


def _spectral(facts: _Facts) -> Iterator[ErrorBound]:
    chained = facts.layers()
    layers, constants = [one.layer for one in chained], [one.lipschitz for one in chained]
    data_norm = float(facts.inputs().double().norm())

    def bound(name: str, short: str, references: list[Layer] | None) -> ErrorBound:
        complexity = spectral_complexity(layers, references, constants)
        value = spectral_margin_bound(complexity, facts.margins, data_norm, delta=facts.delta).value
        assumes = "references fixed beforehand; weights of any norm (grid)"
        return ErrorBound(f"spectral margin, M = {name}", f"spectral, {short}", value, assumes)

    yield bound("zero", "M = 0", None)
    yield bound("identity", "M = I", [layer.identity() for layer in layers])
    recipe = facts.bench.specimen.recipe
    if recipe is not None and recipe.initial_state:
        start = chain(facts.bench.specimen, dict(recipe.initial_state))
        yield bound("initial weights", "initial", [one.layer for one in start])


def _pac_bayes(facts: _Facts, draws: int) -> Iterator[ErrorBound]:
    if not draws:
        raise NotApplicableError("left out by the setting draws=0")
    found = gaussian_posterior_bound(facts.bench, facts.delta, draws)
    yield ErrorBound(
        "PAC-Bayes, Gaussian weights",
        "PAC-Bayes",
        found.value,
        f"of the network with noise {found.noise:.2g} in its weights; prior at {found.centre}",
    )


def _plain(node: str) -> str:
    return node.split("Backward")[0]
