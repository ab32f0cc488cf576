"""Alerts from made-up records: each is raised by what it is about, and by nothing that sound runs do."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest

from torchstone.watching.alerts import NOISY, PAST_EDGE, Alerts, Weight
from torchstone.watching.progress import WINDOW, Progress
from torchstone.watching.record import Alert, Record


def record(step: int, loss: float | None = 1.0, **values: float) -> Record:
    return Record(step, float(step), values if loss is None else {"loss": loss, **values})


def said(losses: Iterable[float]) -> list[tuple[int, str]]:
    alerts = Alerts()
    found = [alerts.after(record(step, loss)) for step, loss in enumerate(losses, 1)]
    return [(alert.step, alert.kind) for new in found for alert in new]


def noisy(loss: Iterable[float], spread: float = 0.3, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [one * rng.lognormvariate(0, spread) for one in loss]


def test_divergence_is_a_loss_that_is_not_finite_or_rises_for_good() -> None:
    assert said([math.nan]) == [(1, "diverging")]
    assert said([2.0, 1.0, math.inf]) == [(3, "diverging")]
    assert [kind for _, kind in said(1 + i / 20 for i in range(60))] == ["diverging"]
    assert said(1.5**i for i in range(30))[0][0] < 20  # grows by half a step: said before anyone looks
    at_once = [2.3, 400.0, *noisy([800.0] * 50)]
    assert [kind for _, kind in said(at_once)] == ["diverging"]
    back = [*noisy(2.3 * 0.97**i for i in range(100)), *noisy([2.0] * 30)]
    ((step, _),) = said(back)
    assert 105 < step < 125


@pytest.mark.parametrize("seed", range(5))
def test_sound_losses_raise_nothing(seed: int) -> None:
    rng = random.Random(seed)
    falling = noisy((2.3 * 0.98**i + 0.01 for i in range(400)), 0.5, seed)
    assert not said(falling)
    falling[200] = 50.0  # one bad batch
    assert not said(falling)
    assert not said(rng.gauss(0, 1) ** 2 for _ in range(3000))  # single examples on a noise floor
    assert not said(rng.gauss(1, 0.1) - 0.0001 * i for i in range(400))  # hardly learning
    assert not said(-3 + 5 * 0.97**i + rng.gauss(0, 0.2) for i in range(300))  # a density's: below zero


def layered(step: int, *, gradients: dict[str, float], ratios: dict[str, float], **values: float) -> Record:
    return Record(step, 1.0, {"loss": 1.0, **values}, {"gradient_norm": gradients, "update_ratio": ratios})


def raised(one: Record, weights: dict[str, Weight], times: int = 12) -> list[tuple[str, str]]:
    alerts = Alerts()
    found = [
        alerts.after(Record(one.step + i, 1.0, one.values, one.layers), weights=weights) for i in range(times)
    ]
    return [(alert.kind, alert.layer) for new in found for alert in new]


def test_vanishing_is_a_layer_that_rests_while_others_are_reached() -> None:
    weights = {"a": Weight(entries=100), "b": Weight(entries=100), "c": Weight(matrix=False)}
    one = layered(1, gradients={"a": 1e-9, "b": 1.0, "c": 0.0}, ratios={"a": 1e-12, "b": 1e-3, "c": 0.0})
    assert raised(one, weights) == [("vanishing", "a")]
    assert not raised(one, weights, times=2)  # not for a step or two
    assert not raised(one, {**weights, "a": Weight(2.0**-53, 100)})
    # A learning rate of 0, one that has decayed, or a run that has converged: nothing moves, and nothing is wrong.
    resting = layered(1, gradients={"a": 0.1, "b": 1.0}, ratios={"a": 0.0, "b": 0.0})
    assert not raised(resting, weights)
    # A parameter that has no gradient at all was not used.
    unused = layered(1, gradients={"b": 1.0}, ratios={"a": 0.0, "b": 1e-3})
    assert not raised(unused, weights)


def test_gradients_that_are_not_finite_and_large_steps() -> None:
    weights = {"a": Weight(), "b": Weight(matrix=False)}
    one = layered(50, gradients={"a": math.inf, "b": 1.0}, ratios={"a": 0.5, "b": 0.5})
    assert raised(one, weights, times=1) == [("exploding", "a")]
    assert raised(one, weights) == [("exploding", "a"), ("large steps", "a")]
    assert ("large steps", "a") not in raised(one, weights, times=9)


def test_updates_lost_in_rounding() -> None:
    def at(lr: float, share: float) -> Record:
        layers = {"gradient_norm": {"a": 1.0}, "update_ratio": {"a": 1e-4}, "moved": {"a": share}}
        return Record(1, 1.0, {"loss": 1.0, "lr": lr, "moved": share}, layers)

    assert raised(at(0.1, 0.05), {"a": Weight()}) == [("lost in rounding", "a")]
    assert not raised(at(0.1, 0.5), {"a": Weight()})
    assert not raised(at(0.0, 0.0), {"a": Weight()})
    alerts = Alerts()
    alerts.after(at(0.1, 0.9))
    assert not [
        new for _ in range(9) for new in alerts.after(at(0.001, 0.0))
    ]  # decayed: no longer meant to move


def test_stuck_is_no_progress_without_a_gradient() -> None:
    def rests(losses: Iterable[float], gradients: Iterable[float]) -> bool:
        progress = Progress()
        for step, (loss, gradient) in enumerate(zip(losses, gradients, strict=True), 1):
            progress.add(record(step, loss, gradient_norm=gradient))
        return progress.rests

    vanished = [1.0] * 4 + [1e-6] * 95
    assert rests([2.3] * 99, vanished)
    assert not rests([2.3] * 99, [1.0] * 99)
    assert not rests([2.3 / i for i in range(1, 100)], vanished)  # it has learned


def test_the_edge_is_said_when_the_loss_rises_and_noise_when_it_does_not_fall() -> None:
    edge = Alert(1, PAST_EDGE, "poor", "", "Past it.", "Lower it.")
    falls, rises = Alerts(), Alerts()
    assert not [
        new for i in range(1, 30) for new in falls.after(record(i, 2.3 / i), [edge] if i == 1 else [])
    ]
    found = [new for i in range(1, 9) for new in rises.after(record(i, 1.1**i), [edge] if i == 1 else [])]
    assert [(alert.kind, alert.step) for alert in found] == [(PAST_EDGE, 8)]

    noise = Alert(1, NOISY, "attention", "", "Noise.", "Average.")
    flat, falling = Alerts(), Alerts()
    rng = random.Random(1)
    found = [new for i in range(1, 200) for new in flat.after(record(i, 1 + i / 1000), [noise])]
    assert [alert.kind for alert in found] == [NOISY]
    losses = [2 * 0.99**i * rng.lognormvariate(0, 0.05) for i in range(200)]
    assert not [new for i, loss in enumerate(losses, 1) for new in falling.after(record(i, loss), [noise])]
    # Taken back as soon as it is measured anew and not found.
    assert not flat.after(record(201, 2.0), asked=[NOISY])
    assert not flat.waiting


def test_alerts_are_said_once_until_they_have_been_gone_as_long_as_they_need_to_appear() -> None:
    alerts = Alerts()
    assert len(alerts.after(record(1, math.inf))) == 1
    assert not alerts.after(record(2, math.inf))
    assert not alerts.after(record(3, 0.5))
    assert len(alerts.after(record(4, math.nan))) == 1
    found = Alert(1, "dead units", "poor", "relu", "Dead.", "Revive.")
    pattern = [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    alerts = Alerts()
    steps = [
        i
        for i, one in enumerate(pattern)
        if alerts.after(record(i, None), [found] if one else [], ["dead units"])
    ]
    assert steps == [5, 15]


def test_no_more_is_kept_however_long_the_run_is() -> None:
    progress = Progress()
    for step in range(500):
        progress.add(record(step, 1.0, gradient_norm=5.0 if step == 7 else 1.0))
        progress.add(record(step, None))
    assert (len(progress.first), len(progress.last), len(progress.gradients)) == (WINDOW, 2 * WINDOW, WINDOW)
    assert progress.largest_gradient == 5.0
