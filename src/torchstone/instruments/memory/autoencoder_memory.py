"""Does this autoencoder give its training examples back when it is applied to its own output?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.batches import same_bits
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import (
    Axis,
    Bars,
    Detail,
    Histogram,
    Images,
    Marker,
    Scalar,
    Scalars,
    Table,
    numbers,
)
from torchstone.instruments.memory.leakage import picture
from torchstone.instruments.settings import require_between, require_count
from torchstone.memory import IdentityCorrelations, identity_correlations
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.excess import Excess
from torchstone.workbench.input_map import InputMap, input_map
from torchstone.workbench.reconstruction_bits import ReconstructionBits, reconstruction_bits
from torchstone.workbench.stored_examples import (
    Ends,
    Radii,
    Stored,
    radii_at,
    random_ends,
    recall,
    spacing_of,
)

_SOURCE = "Radhakrishnan, Belkin & Uhler 2020, section 2; Zhang et al. 2020; Ollivier 2014"


@dataclass(frozen=True)
class AutoencoderMemory:
    r"""Share of training examples that an autoencoder, applied again and again, recalls from disturbed copies.

    A copy of an example, moved by `disturbance` times the typical distance between neighbouring training examples, is
    recalled when iterating x -> f(x) ends within `tolerance` times that distance of the example. The same is asked of
    test examples, which a network that has learnt the law of the data recalls as well. Beside it: the spectral radius
    of the Jacobian at the examples (below 1 a fixed point attracts), where random inputs end, correlations with the
    identity and with training examples, and codelengths of training and test examples.

    Cost: up to `steps` forward passes over the starts, 40 backward passes over the examples (one a coordinate for inputs
    of at most 128 numbers). Bias: attractors that need more than `steps` applications count as not recalled.
    Source: Radhakrishnan, Belkin & Uhler 2020, section 2; Zhang et al. 2020, section 4; Ollivier 2014, section 3.
    """

    META: ClassVar[Meta] = Meta(
        id="autoencoder_memory",
        question=Question.MEMORY,
        title="Memory of an autoencoder",
        asks="Does this autoencoder store its training examples?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.FLOAT_INPUTS, Need.INDEPENDENT_EXAMPLES),
        unit="share of training examples",
        source=_SOURCE,
    )
    examples: int = 64
    """At most this many of each split are disturbed and iterated."""
    starts: int = 100
    steps: int = 256
    disturbance: float = 0.25
    tolerance: float = 0.1
    compared: int = 512
    """At most this many of each split for correlations and codelengths."""
    draws: int = 4

    def __post_init__(self) -> None:
        require_count(self, "examples", 1, 10_000)
        require_count(self, "starts", 1, 10_000)
        require_count(self, "steps", 1, 100_000)
        require_between(self, "disturbance", 1e-3, 10.0)
        require_between(self, "tolerance", 1e-3, 1.0)
        require_count(self, "compared", 3, 100_000)
        require_count(self, "draws", 1, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Iterate the network from disturbed examples and from random inputs."""
        network = input_map(bench)
        found = self._found(bench, network)
        stored, count = _counts(found.train)
        every = count == bench.specimen.size("train")
        interval = clopper_pearson(stored, count)
        verdict = judge(found.recall_excess, found.reach_excess)
        return Reading.of(
            self.META,
            value=stored / count,
            uncertainty=Uncertainty(
                interval.low, interval.high, "probes" if every else "examples", "Clopper-Pearson"
            ),
            verdict=verdict,
            headline=_headline(stored, count, found),
            explanation=(
                f"Copies of {count} training examples, moved by {self.disturbance:g} of the typical distance between "
                f"neighbours ({found.spacing:.3g}), go through the network up to {self.steps} times; recalled means "
                f"ending within {self.tolerance:g} of that distance. A spectral radius below 1 makes a fixed point an "
                "attractor. Test examples are recalled too where the network has learnt the law of the data."
            ),
            remedies=_remedies(verdict),
            details=_details(found, network),
            notes=_notes(found, network, bench),
        )

    def _found(self, bench: Workbench, network: InputMap) -> _Found:
        generator = bench.generator(self.META.id)
        train = bench.inputs("train")
        spacing = spacing_of(train)
        settings = (self.disturbance, self.tolerance, self.steps)
        rows = bench.sample("train", self.examples, self.META.id)
        splits = {"train": train[bench.sample("train", self.compared, f"{self.META.id} compared")]}
        test, every = None, bench.inputs("test") if bench.specimen.has("test") else None
        if every is not None:
            chosen = every[bench.sample("test", self.examples, self.META.id)]
            test = recall(network, chosen, spacing, settings, generator)
            splits["test"] = every[bench.sample("test", self.compared, f"{self.META.id} compared")]
        ends = random_ends(
            network, train, every, spacing, self.starts, (self.tolerance, self.steps), generator
        )
        outputs = {
            name: network(network.states(part)).flatten(1).cpu().double() for name, part in splits.items()
        }
        return _Found(
            examples=train[rows],
            spacing=spacing,
            train=recall(network, train[rows], spacing, settings, generator),
            test=test,
            ends=ends,
            radii=radii_at(network, train[rows], generator),
            errors={name: (outputs[name] - part.double()).square().mean(1) for name, part in splits.items()},
            correlations={
                name: identity_correlations(part.double(), outputs[name], splits["train"])
                for name, part in splits.items()
                if network.width > 1
            },
            bits=reconstruction_bits(network, splits, self.draws, generator),
        )


def _counts(stored: Stored) -> tuple[int, int]:
    return int(stored.recalled.sum()), len(stored.recalled)


@dataclass(frozen=True)
class _Found:
    """Everything measured."""

    examples: Tensor
    spacing: float
    train: Stored
    test: Stored | None
    ends: Ends
    radii: Radii
    errors: dict[str, Tensor]
    correlations: dict[str, IdentityCorrelations]
    bits: ReconstructionBits | None

    @property
    def test_share(self) -> float:
        """Share of the test examples that are recalled; 0 without any."""
        return 0.0 if self.test is None else float(self.test.recalled.double().mean())

    @property
    def recall_excess(self) -> Excess:
        """Recalled training examples against recalled test examples."""
        return Excess.of(_counts(self.train), (0, 0) if self.test is None else _counts(self.test))

    @property
    def reach_excess(self) -> Excess:
        """Random inputs that end at a training example against those near a test example."""
        starts = len(self.ends.reached)
        found = int((self.ends.reached >= 0).sum()), starts
        other = (0, 0) if self.test is None else (self.ends.near_test, starts)
        return Excess.of(found, other, self.ends.crowding)

    @property
    def reached_share(self) -> float:
        """Share of the random starts that end at a training example."""
        return float((self.ends.reached >= 0).double().mean())


def judge(recall: Excess, reach: Excess) -> Verdict:
    """Attention where training examples are recalled, or found from random inputs, more often than test examples are."""
    threshold = "training examples recalled or reached at most 5% more often than test examples (poor: 50%)"
    source = "convention of this report; attractors at training examples: Radhakrishnan, Belkin & Uhler 2020"
    most = max(recall.value, reach.value)
    if recall.above(0.05) or reach.above(0.05):
        reason = f"training examples are recalled {recall.value:.0%} and reached from random inputs {reach.value:.0%} more often"
        if recall.above(0.5) or reach.above(0.5):
            return Verdict(Level.POOR, reason, threshold, source, min(1.0, 0.8 + 0.2 * most))
        return Verdict(Level.ATTENTION, reason, threshold, source)
    return Verdict(
        Level.GOOD, "training examples are recalled and reached no more than test examples", threshold, source
    )


def _headline(stored: int, count: int, found: _Found) -> str:
    recalled = f"{stored:,} of {count:,} training examples are recalled from disturbed copies"
    against = "" if found.test is None else f" ({found.test_share:.0%} of test examples)"
    largest = float(found.radii.values.max())
    return (
        f"{recalled}{against}; {found.reached_share:.0%} of random inputs end at a training example; the largest spectral "
        f"radius at an example is {largest:.3g}."
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "Stop training before the training error vanishes: choose the epoch by the error on held-out examples.",
            claim="autoencoder_attractors",
        ),
        Remedy(
            "Add examples, or narrow the code until a test example costs as many bits as a training example.",
            claim="two_part_codelength",
        ),
        Remedy(
            "Do not publish the weights if the examples are private: iterating the network gives them back.",
            claim="autoencoder_attractors",
        ),
        Remedy(
            "If recall is the purpose, keep it, and watch the radii: a memory needs all of them below 1.",
            "torchstone.memory.spectral_radius",
        ),
    )


def _notes(found: _Found, network: InputMap, bench: Workbench) -> tuple[str, ...]:
    notes = []
    first = next(bench.specimen.batches("train"))
    target, inputs = bench.specimen.objective.target(first), bench.specimen.objective.inputs(first)
    if target is not None and inputs is not None and not same_bits(target, inputs):
        notes.append("The targets are not the inputs; fixed points and recall are asked of the inputs.")
    if found.radii.high == found.radii.high:
        notes.append(
            f"The largest radius lies between {found.radii.low:.6g} and {found.radii.high:.6g}: powers of the Jacobian, "
            "rounding included."
        )
    if float(found.radii.residuals.max()) > 0:
        notes.append(
            "Radii of other examples come from Krylov spaces of up to 40 products, with residuals up to "
            f"{float(found.radii.residuals.max()):.2g}."
        )
    if network.width > 1 and found.bits is None:
        notes.append("No codelengths: no layer narrower than the input is passed by everything.")
    if found.bits is not None and found.bits.floored:
        notes.append(
            "The network interpolates: the output noise of the codelengths is set to a millionth of the inputs' variance."
        )
    return tuple(notes)


def _details(found: _Found, network: InputMap) -> tuple[Detail, ...]:
    details: list[Detail] = [_radii(found.radii), _basins(found)]
    details += [*_pictures(found, network), _errors(found.errors)]
    if found.correlations:
        details.append(_correlations(found.correlations))
    if found.bits is not None:
        details.append(_bits(found.bits))
    return tuple(details)


def _radii(radii: Radii) -> Histogram:
    top = max(1.25, 1.05 * float(radii.values.max()))
    edges = torch.linspace(0, top, 31, dtype=torch.float64)
    counts = torch.histogram(radii.values.cpu(), edges).hist
    return Histogram(
        "Spectral radius of the Jacobian at training examples",
        Axis("largest absolute eigenvalue"),
        numbers(edges),
        (Bars("training examples", numbers(counts)),),
        (Marker("attracts below 1", 1.0, "x"),),
        caption="A fixed point attracts where its radius is below 1. The identity has 1 everywhere, a constant 0.",
        y=Axis("examples"),
    )


def _basins(found: _Found) -> Scalars:
    count, reached = len(found.ends.reached), int((found.ends.reached >= 0).sum())
    left = int((found.ends.left & (found.ends.reached < 0)).sum())
    items = []
    for name, number in (
        ("end at a training example", reached),
        ("end elsewhere, or still move", count - reached - left),
        ("run away", left),
    ):
        interval = clopper_pearson(number, count)
        items.append(Scalar(name, number / count, "share of random inputs", interval.low, interval.high))
    return Scalars(
        "Where random inputs end",
        tuple(items),
        stacked=True,
        caption="Normal random inputs with the training data's mean and deviation in each coordinate, iterated.",
    )


def _pictures(found: _Found, network: InputMap) -> tuple[Images, ...]:
    shape = network.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] * shape[2] > 64 * 64:
        return ()
    pictures = []
    for row in range(min(4, len(found.examples))):
        for name, values in (
            (f"{row + 1}: training example", found.examples[row]),
            ("disturbed", found.train.disturbed[row]),
            ("recalled" if bool(found.train.recalled[row]) else "where it ended", found.train.ends[row]),
        ):
            pictures.append(picture(values.float().nan_to_num().reshape(shape), name))
    return (
        Images(
            "Recall of training examples",
            tuple(pictures),
            "In threes: example, disturbed copy, where it ended.",
        ),
    )


def _errors(errors: dict[str, Tensor]) -> Scalars:
    items = []
    for name, values in errors.items():
        mean, error = _mean(values)
        items.append(
            Scalar(
                f"{_NAMES[name]} examples",
                mean,
                "mean squared error",
                mean - 1.96 * error,
                mean + 1.96 * error,
            )
        )
    return Scalars(
        "Reconstruction error",
        tuple(items),
        caption="|f(x) - x|^2 a coordinate, with the sampling error of the mean.",
    )


_NAMES = {"train": "training", "test": "test"}


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean of what is finite and its standard error."""
    kept = values[values.isfinite()]
    error = float(kept.std()) / len(kept) ** 0.5 if len(kept) > 1 else float("nan")
    return (float(kept.mean()) if len(kept) else float("nan")), error


def _correlations(correlations: dict[str, IdentityCorrelations]) -> Table:
    rows = tuple(
        (f"{_NAMES[name]} examples", _mean(pair.identity)[0], _mean(pair.constant)[0])
        for name, pair in correlations.items()
    )
    return Table(
        "Identity or memory",
        ("outputs of", "mean correlation with the input", "with the most similar training example"),
        rows,
        "A network that learnt the law of the data answers test examples with themselves: the first is the larger.",
    )


def _bits(bits: ReconstructionBits) -> Table:
    rows = []
    for name, parts in bits.parts.items():
        total, error = _mean(parts.total)
        linear = _mean(bits.linear[name])[0] if name in bits.linear else None
        cells = (parts.reconstruction, parts.features, parts.noise)
        rows.append((_NAMES[name], *(_mean(part)[0] for part in cells), total, error, linear))
    columns = (
        "examples",
        "reconstruction (bits an example)",
        "features",
        "noise given back",
        "total",
        "standard error",
        "linear autoencoder of as many features",
    )
    return Table(
        f"Codelength through the {bits.width} features of layer {bits.layer}",
        columns,
        tuple(rows),
        "Laws of features and noise are fitted to training examples. Only differences mean anything: far more bits for test "
        "than for training examples are memory, and more than the linear autoencoder is a poor code.",
    )


INSTRUMENT = AutoencoderMemory
