"""A network before and after a remedy: the same instruments on both, untrained and after a few epochs."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from torchstone.errors import NotApplicableError, NumericalError, RemedyError
from torchstone.instruments.catalogue import Instrument, catalogue, make
from torchstone.instruments.measurement import measure
from torchstone.mending.mended import Mended, mended, with_model
from torchstone.reading import Reading
from torchstone.specimen import Specimen
from torchstone.training.fit import Epoch
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import fresh_optimizer, train

AT_THE_START = ("activation_health", "gradient_flow", "signal_propagation", "jacobian_spectrum")


@dataclass(frozen=True)
class Run:
    """A few epochs of training.

    Attributes:
        losses: Mean training loss of each epoch, as seen on the way.
        train: Mean loss on the training examples at the end; infinite where the training diverged.
        test: The same on the test examples; None without any.
        stopped: What ended the training early, or empty.
    """

    losses: tuple[float, ...]
    train: float
    test: float | None
    stopped: str = ""


@dataclass(frozen=True)
class Stage:
    """Both networks at one moment.

    Attributes:
        name: "untrained", or "after 5 epochs".
        before: Readings without the remedy.
        after: Readings with it.
    """

    name: str
    before: dict[str, Reading]
    after: dict[str, Reading]

    def pairs(self) -> list[tuple[Reading, Reading]]:
        """Readings that at least one of the networks has a number for, without and with the remedy."""
        both = [(reading, self.after[key]) for key, reading in self.before.items() if key in self.after]
        return [(one, other) for one, other in both if one.measured or other.measured]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a remedy changes.

    Attributes:
        mended: Both networks; after training, these are the trained ones.
        stages: Readings untrained, and after training where there was any.
        runs: Training without and with the remedy; empty where there was none.
        epochs: Passes of it.
        seconds: What all this took.
    """

    mended: Mended
    stages: tuple[Stage, ...]
    runs: tuple[Run, ...] = ()
    epochs: int = 0
    seconds: float = 0.0


@dataclass
class Attempt:
    """A remedy that has been applied and is yet to be measured.

    Args:
        bench: With the prepared specimen.
        remedy: For example "init=orthogonal,norm=layer".
        epochs: Train both networks for so many epochs and measure again; 0 compares untrained networks only.

    Raises:
        RemedyError: The remedy cannot be applied, or the recipe does not say how to train.
    """

    bench: Workbench
    remedy: str
    epochs: int = 0
    mended: Mended = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 0:
            raise RemedyError(
                "The number of epochs is a whole number", repr(self.epochs), "Pass for example 5."
            )
        self.mended = mended(self.bench.specimen, self.remedy, self.bench.generator("remedy"))
        if self.epochs:
            self._optimizer(self.mended.before.model)  # refuses now what could not be trained later

    def compare(self, instruments: Sequence[Instrument]) -> Comparison:
        """Measure both networks, train both where asked to, and measure again.

        Both are trained on the same order of examples.

        Args:
            instruments: What to measure.
        """
        started, pair = time.perf_counter(), (self.mended.before, self.mended.after)
        stages = [self._stage("untrained", instruments, pair)]
        runs: tuple[Run, ...] = ()
        if self.epochs:
            runs = (self._train(pair[0], None), self._train(pair[1], self.mended.named))
            word = "epoch" if self.epochs == 1 else "epochs"
            stages.append(self._stage(f"after {self.epochs} {word}", instruments, pair))
        seconds = time.perf_counter() - started
        return Comparison(self.mended, tuple(stages), runs, self.epochs, seconds)

    def _stage(self, name: str, instruments: Sequence[Instrument], pair: tuple[Specimen, Specimen]) -> Stage:
        readings = []
        for specimen in pair:
            bench = Workbench(specimen, self.bench.plan, self.bench.seed)
            readings.append({one.META.id: measure(one, bench) for one in instruments})
        return Stage(name, *readings)

    def _optimizer(
        self, model: nn.Module, named: dict[str, nn.Parameter] | None = None
    ) -> torch.optim.Optimizer:
        try:
            return fresh_optimizer(self._retrainable(), model, named)
        except NotApplicableError as error:
            raise RemedyError(
                "Training both networks needs Recipe(build=..., optimizer=..., batch_size=...)",
                f"a comparison that {error.reason}",
                "Complete the recipe, or compare untrained networks.",
            ) from None

    def _retrainable(self) -> Specimen:
        specimen = copy.copy(self.bench.specimen)
        if specimen.recipe is not None:
            specimen.recipe = replace(specimen.recipe, epochs=self.epochs)
        return specimen

    def _train(self, specimen: Specimen, named: object) -> Run:
        losses: list[float] = []

        def note(epoch: Epoch) -> None:
            losses.append(epoch.train_loss)

        model = specimen.model
        known = dict(self.mended.named) if named is not None else None
        stopped = ""
        try:
            generator = self.bench.generator("remedy: order of examples")
            train(self._retrainable(), model, self._optimizer(model, known), generator, note)
        except NumericalError as error:
            stopped = error.expected
        measured = with_model(specimen, model)
        ends = [float("inf") if stopped else measured.risk("train"), None]
        if measured.has("test"):
            ends[1] = float("inf") if stopped else measured.risk("test")
        assert ends[0] is not None
        return Run(tuple(losses), ends[0], ends[1], stopped)


def at_the_start() -> list[Instrument]:
    """The instruments that say how an untrained network will train."""
    return [make(name) for name in AT_THE_START if name in catalogue()]
