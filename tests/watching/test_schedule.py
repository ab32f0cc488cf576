"""When what is measured: the budget is kept, and dear quantities have their turn."""

from __future__ import annotations

import itertools
import time

import torch
from torch import nn

from torchstone.watching import watch
from torchstone.watching.quantities import Quantity
from torchstone.watching.schedule import SHADOW, Schedule
from torchstone.watching.state import Measured, State
from torchstone.watching.thinning import WHOLE, Thinning


class Slow(Quantity):
    """Takes a known time."""

    name = "slow"
    cost = 1.0

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds

    def measure(self, state: State) -> Measured:
        time.sleep(self.seconds)
        return Measured({"slow": float(state.step)})


def test_accounts_keep_the_budget() -> None:
    """Simulated time: two quantities of different cost share a tenth of it, whatever they cost."""
    cheap, dear = Slow(), Slow()
    cheap.name, dear.name = "cheap", "dear"  # pyright: ignore[reportAttributeAccessIssue]
    schedule = Schedule([cheap, dear], "auto", SHADOW * 0.10)
    costs, seconds = {"cheap": 0.01, "dear": 1.0}, 0.0
    for step in range(1, 2001):
        seconds += 0.1
        for quantity in schedule.due(step, seconds):
            schedule.note(quantity, step, costs[quantity.key])
    assert schedule.total <= 0.10 * seconds
    assert schedule.total > 0.08 * seconds
    assert schedule.spent["dear"].times >= 8
    assert schedule.spent["cheap"].times >= 900


def test_what_cheap_quantities_leave_unused_pays_for_dear_ones_in_short_runs() -> None:
    """Alone on its equal account the dear one, 30 steps of work, would wait 30 * 20 / 0.1 = 6,000 steps."""
    quantities = [Slow() for _ in range(20)]
    for k, quantity in enumerate(quantities):
        quantity.name = f"cheap {k}"  # pyright: ignore[reportAttributeAccessIssue]
    quantities[-1].name = "dear"  # pyright: ignore[reportAttributeAccessIssue]
    quantities[-1].cost = 30.0
    schedule = Schedule(quantities, "auto", SHADOW * 0.10)
    seconds, other = 0.0, 0.0
    for step in range(1, 1001):
        seconds += 0.1
        other += 0.0005  # hooks and logs
        for quantity in schedule.due(step, seconds, other):
            schedule.note(quantity, step, 3.0 if quantity.name == "dear" else 0.0001)
    assert schedule.spent["dear"].times == 1
    assert schedule.spent["dear"].last < 800
    assert schedule.total + other <= 0.10 * seconds
    assert all(schedule.spent[f"cheap {k}"].times > 800 for k in range(19))


def test_a_budget_is_kept_in_a_real_loop() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, quantities=[Slow(0.01)], budget=0.2) as watcher:
        for _ in range(60):
            time.sleep(0.005)
            watcher.step(1.0)
    assert 1 <= len(watcher.records) <= 10
    assert watcher.schedule.total <= 0.2 * 60 * 0.01 + 0.03


def test_layers_are_kept_ever_less_often_and_evenly() -> None:
    """Of each doubling of a run as many: n records keep 1,000 log2(n / 1,000) and a thousand more, at even gaps."""
    thinning = Thinning()
    kept = [step for step in range(64 * WHOLE) if thinning.keeps_layers()]
    assert len(kept) == 7 * WHOLE
    assert kept[: 2 * WHOLE] == list(range(2 * WHOLE))
    assert max(after - before for before, after in itertools.pairwise(kept)) == 32
