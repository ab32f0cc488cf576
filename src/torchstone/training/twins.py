r"""Coupled twins: two runs from one start in one order, on samples that differ in a single example.

Everything random is shared, so that all that separates the two networks is that example. How far they drift apart is
the stability of the training procedure: in weights, which is the stronger notion, or in what the networks say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.training.ensemble import Ensemble
from torchstone.training.evaluation import PerExample
from torchstone.training.fit_many import MembersEpoch, TrainedMany, fit_many

Probe = Callable[[Ensemble], Tensor]
"""From k networks to their outputs on examples of one's choice, (k, M, ...)."""


@dataclass(frozen=True)
class TwinCurves:
    r"""How far the twins of P pairs are apart after each of T epochs.

    Args:
        epochs: Passes finished, (T,).
        steps: Updates made, (T,).
        squares: :math:`\|w_l - w'_l\|^2` of each layer l, (P, T) by the layer's name, float64.
        sizes: :math:`\|w_l\|^2 + \|w'_l\|^2` likewise.
        outputs: Root mean square difference of the outputs on the probe, (P, T); None without one.
        disagreement: Share of the probe's examples whose largest output differs, (P, T); None without a probe, or where
            there is a single output.
    """

    epochs: Tensor
    steps: Tensor
    squares: Mapping[str, Tensor]
    sizes: Mapping[str, Tensor]
    outputs: Tensor | None = None
    disagreement: Tensor | None = None

    @property
    def distance(self) -> Tensor:
        r""":math:`\|w - w'\|` over all layers, (P, T)."""
        return torch.stack(list(self.squares.values())).sum(0).sqrt()

    @property
    def normalised(self) -> Tensor:
        r""":math:`\sqrt{\|w - w'\|^2 / (\|w\|^2 + \|w'\|^2)}`, in [0, sqrt 2]; 0 for equal weights, also where all are 0."""
        return _ratio(
            torch.stack(list(self.squares.values())).sum(0), torch.stack(list(self.sizes.values())).sum(0)
        )

    @property
    def normalised_layers(self) -> dict[str, Tensor]:
        """The same within each layer, (P, T) by name."""
        return {name: _ratio(square, self.sizes[name]) for name, square in self.squares.items()}


def _ratio(squares: Tensor, sizes: Tensor) -> Tensor:
    return torch.where(squares > 0, squares / sizes, squares).sqrt()


def train_twins(
    models: Sequence[nn.Module],
    losses: PerExample,
    x: Any,
    y: Any,
    *,
    rows: Tensor,
    twin_rows: Tensor,
    seeds: Sequence[int],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    batch_size: int,
    epochs: int,
    probe: Any = None,
    **settings: Any,
) -> tuple[TwinCurves, TrainedMany, TrainedMany]:
    """Train P networks on S and P on S', and measure after every epoch how far the twins are apart.

    Both twins of a pair start from `models[p]` and present the positions of their rows in the order of `seeds[p]`, so
    where `rows[p]` and `twin_rows[p]` differ in one place the runs differ in nothing else, dropout masks and the
    statistics of batch normalisation included. Each sample's networks train as one, with twins in the same place of
    their ensembles, so that the rounding is the same too: equal rows give distances of exactly 0.

    Cost: 2P trainings. Memory: as `fit_many`, and the weights of P networks for every epoch.

    Args:
        models: One initialised network for each pair; not changed.
        losses: Loss by example.
        x: Inputs (N, ...) of all examples that any sample holds, or a tree of them.
        y: Targets (N, ...).
        rows: S as positions in x, (P, n).
        twin_rows: S', likewise.
        seeds: Of the order of each pair.
        optimizer: Makes an optimiser of a list of parameters.
        batch_size: Examples a step; n for full-batch descent, where an epoch is a step.
        epochs: Passes over the sample.
        probe: Inputs on which outputs are compared, or None.
        settings: Further ones of `fit_many`: scheduler, penalty, memory_budget.

    Returns:
        The curves, the runs on S, and those on S'.

    Raises:
        SettingError: Numbers of models, seeds and rows that do not pair up.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torchstone.training.evaluation import squared_error
        >>> x = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
        >>> rows = torch.arange(20)[None]
        >>> twin = rows.clone()
        >>> twin[0, 3] = 20
        >>> curves, _, _ = train_twins(
        ...     [nn.Linear(1, 1).double()], squared_error, x, x.abs(), rows=rows, twin_rows=twin, seeds=[0], batch_size=4,
        ...     epochs=5, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ... )
        >>> curves.steps.tolist(), bool((curves.distance > 0).all())
        ([5, 10, 15, 20, 25], True)

    Source: Hardt, Recht & Singer 2016, section 5.
    """
    pairs = len(models)
    if rows.shape != twin_rows.shape or rows.ndim != 2 or not len(rows) == len(seeds) == pairs:
        raise SettingError(
            f"rows and twin_rows must have shape ({pairs}, n), and seeds one number for each of {pairs} models",
            f"shapes {tuple(rows.shape)} and {tuple(twin_rows.shape)}, {len(seeds)} seeds",
            "Pass one sample and its twin for each model.",
        )
    watch = TwinWatch(None if probe is None else lambda ensemble: ensemble.outputs(probe))
    run, twin_run = (
        fit_many(
            models,
            losses,
            x,
            y,
            rows=some,
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            optimizer=optimizer,
            batch_size=batch_size,
            epochs=epochs,
            on_epoch=on_epoch,
            **settings,
        )
        for some, on_epoch in ((rows, watch.remember), (twin_rows, watch.compare))
    )
    return watch.curves(), run, twin_run


class TwinWatch:
    """Measures the distances of twins that train in two calls: `remember` is the first one's `on_epoch`, `compare` the second's.

    Memory: the weights of the first call's networks at every epoch that is noted, until they are compared.

    Args:
        probe: Outputs to compare, or None.
        epochs: Which to note; None for all.
    """

    def __init__(self, probe: Probe | None = None, epochs: Collection[int] | None = None) -> None:
        self._probe, self._epochs = probe, epochs
        self._steps: dict[int, int] = {}
        self._waiting: dict[tuple[int, int], _State] = {}
        self._apart: dict[tuple[int, int], _Apart] = {}

    def wants(self, epoch: int) -> bool:
        """Whether this epoch is to be noted."""
        return self._epochs is None or epoch in self._epochs

    def remember(self, epoch: MembersEpoch, outputs: Tensor | None = None) -> None:
        """Keep the networks after an epoch, and their outputs (k, M, ...) where there is no probe to find them."""
        for key, state in self._states(epoch, outputs, copied=True):
            self._waiting[key] = state
            self._steps[epoch.index] = epoch.steps

    def compare(self, epoch: MembersEpoch, outputs: Tensor | None = None) -> None:
        """Measure how far the twins are from the networks that were kept.

        Raises:
            SettingError: None was kept.
        """
        for key, state in self._states(epoch, outputs, copied=False):
            if key not in self._waiting:
                raise SettingError(
                    "TwinWatch.compare needs the twin of every network after every epoch",
                    f"none of member {key[0]} after epoch {key[1]}",
                    "Train the first networks with on_epoch=watch.remember, for as many epochs.",
                )
            self._apart[key] = _Apart.of(self._waiting.pop(key), state)

    def curves(self) -> TwinCurves:
        """What was noted.

        Raises:
            SettingError: Nothing, or networks that were kept and never compared.
        """
        if self._waiting or not self._apart:
            raise SettingError(
                "TwinWatch needs both twins of each pair after the same epochs",
                f"{len(self._waiting)} states without their twin" if self._waiting else "none",
                "Train with on_epoch=watch.remember, then their twins with on_epoch=watch.compare.",
            )
        epochs, members = (sorted({key[place] for key in self._apart}) for place in (1, 0))
        apart = [[self._apart[k, e] for e in epochs] for k in members]
        first = apart[0][0]

        def table(of: Callable[[_Apart], float | None]) -> Tensor:
            return torch.tensor([[of(one) for one in line] for line in apart], dtype=torch.float64)

        return TwinCurves(
            torch.tensor(epochs),
            torch.tensor([self._steps[e] for e in epochs]),
            {name: table(lambda one, name=name: one.squares[name]) for name in first.squares},
            {name: table(lambda one, name=name: one.sizes[name]) for name in first.sizes},
            None if first.outputs is None else table(lambda one: one.outputs),
            None if first.disagreement is None else table(lambda one: one.disagreement),
        )

    def _states(
        self, epoch: MembersEpoch, outputs: Tensor | None, copied: bool
    ) -> Iterator[tuple[tuple[int, int], _State]]:
        """Each network by its member and epoch; the ensemble goes on changing, so what is kept must be a copy."""
        if not self.wants(epoch.index):
            return
        if self._probe is not None:
            outputs = self._probe(epoch.ensemble).detach()
        stacks = {name: stack.detach() for name, stack in epoch.ensemble.parameters.items()}
        if copied:
            stacks = {name: stack.clone() for name, stack in stacks.items()}
        for place, member in enumerate(epoch.members.tolist()):
            own = {name: stack[place] for name, stack in stacks.items()}
            yield (member, epoch.index), _State(own, None if outputs is None else outputs[place])


@dataclass(frozen=True)
class _State:
    """One network at one time."""

    parameters: dict[str, Tensor]
    outputs: Tensor | None


@dataclass(frozen=True)
class _Apart:
    """How far two networks are apart."""

    squares: dict[str, float]
    sizes: dict[str, float]
    outputs: float | None
    disagreement: float | None

    @classmethod
    def of(cls, one: _State, other: _State) -> _Apart:
        squares: dict[str, float] = {}
        sizes: dict[str, float] = {}
        for name, mine in one.parameters.items():
            layer = name.rpartition(".")[0] or name
            a, b = mine.double(), other.parameters[name].double()
            squares[layer] = squares.get(layer, 0.0) + float((a - b).square().sum())
            sizes[layer] = sizes.get(layer, 0.0) + float(a.square().sum() + b.square().sum())
        if one.outputs is None or other.outputs is None:
            return cls(squares, sizes, None, None)
        a, b = one.outputs.double(), other.outputs.double()  # (M, C) or (M,)
        rms = float((a - b).square().mean().sqrt())
        classes = a.ndim > 1 and a.shape[1] > 1
        return cls(
            squares, sizes, rms, float((a.argmax(1) != b.argmax(1)).double().mean()) if classes else None
        )
