"""Surrogate losses: closed psi-transforms against minimisation, the inequality on discrete laws, calibration."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from torchstone.bounds.surrogate import (
    EXPONENTIAL,
    HINGE,
    LOGISTIC,
    MARGIN_LOSSES,
    SQUARED,
    MarginLoss,
    is_calibrated,
    psi_transform,
    surrogate_excess,
)
from torchstone.errors import NumericalError, SettingError

each_loss = pytest.mark.parametrize("loss", MARGIN_LOSSES, ids=lambda loss: loss.name)


@each_loss
def test_closed_psi_against_minimisation(loss: MarginLoss) -> None:
    for theta in (0.0, 1e-4, 0.1, 0.5, 0.9, 0.999):
        closed = float(loss.psi(torch.tensor(theta, dtype=torch.float64)))
        # The search stops within 1.5e-8 of the minimiser, where the hinge loss has a kink of slope 2 theta at most.
        assert psi_transform(loss.loss, theta) == pytest.approx(closed, abs=4e-8)
    # At 1 the logistic and exponential losses have their infimum at infinity.
    assert psi_transform(loss.loss, 1.0) == pytest.approx(float(loss.psi(torch.ones(()).double())), abs=1e-9)


def test_psi_by_hand() -> None:
    t = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
    assert HINGE.psi(t).tolist() == [0.0, 0.6, 1.0]
    assert SQUARED.psi(t).tolist() == pytest.approx([0.0, 0.36, 1.0])
    assert EXPONENTIAL.psi(t).tolist() == pytest.approx([0.0, 0.2, 1.0])
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert LOGISTIC.psi(t).tolist() == pytest.approx([0.0, math.log(2) - entropy, math.log(2)])
    # Pinsker: half the squared error in nats.
    assert bool((LOGISTIC.psi(t) >= t**2 / 2).all())


@each_loss
def test_the_inequality_and_when_it_is_an_equality(loss: MarginLoss) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
    for _ in range(300):
        law = draw(4) / draw(4).sum()
        law = law / law.sum()
        found = surrogate_excess(loss, law, draw(4), 4 * draw(4) - 2)
        assert found.psi_of_error <= found.surrogate + 1e-12
        assert found.error <= loss.error_bound(max(0.0, found.surrogate)) + 1e-9
    # Score 0 everywhere and one value of eta: equality.
    found = surrogate_excess(loss, torch.full((4,), 0.25), torch.full((4,), 0.9), torch.zeros(4))
    assert found.psi_of_error == pytest.approx(found.surrogate, rel=1e-6)
    assert found.error == pytest.approx(0.8, rel=1e-6)


@each_loss
def test_bayes_scores_have_no_excess(loss: MarginLoss) -> None:
    eta = torch.tensor([0.1, 0.5001, 0.8], dtype=torch.float64)
    log_odds = torch.log(eta / (1 - eta))
    best = {
        "hinge": (2 * eta - 1).sign(),
        "logistic": log_odds,
        "squared": 2 * eta - 1,
        "exponential": log_odds / 2,
    }[loss.name]
    found = surrogate_excess(loss, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), eta, best)
    assert found.error == 0
    assert found.surrogate == pytest.approx(0, abs=1e-12)


@each_loss
def test_error_bounds_invert_psi(loss: MarginLoss) -> None:
    for t in (0.0, 1e-3, 0.4, 0.97):
        psi = float(loss.psi(torch.tensor(t, dtype=torch.float64)))
        assert loss.error_bound(psi) == pytest.approx(t, abs=1e-7)
    assert loss.error_bound(2.0) == 1.0


def test_which_losses_are_calibrated() -> None:
    assert all(is_calibrated(loss.loss) for loss in MARGIN_LOSSES)
    assert is_calibrated(lambda m: (1 - m).clamp(min=0) ** 2)
    assert is_calibrated(lambda m: (0.01 - m).clamp(min=0))  # a kink beside 0 does no harm
    assert not is_calibrated(lambda m: (-m).clamp(min=0))  # kink at 0, flat to the right
    assert not is_calibrated(lambda m: torch.maximum(-m, -2 * m))  # kink at 0, falling on both sides
    assert not is_calibrated(lambda m: (1 + m) ** 2)
    assert not is_calibrated(lambda m: softplus(m))
    assert not is_calibrated(lambda m: m**2)
    # The kinked one really fails: psi is 0 for small theta.
    assert psi_transform(lambda m: torch.maximum(-m, -2 * m), 0.2) == pytest.approx(0, abs=1e-9)


def test_a_zero_score_is_an_error_and_certain_labels_work() -> None:
    found = surrogate_excess(
        SQUARED, torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])
    )
    assert (found.error, found.surrogate) == (0.5, 0.5)


def test_bad_inputs_are_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(SettingError, match="probabilities of k points"):
        surrogate_excess(HINGE, torch.tensor([0.5, 0.6]), torch.ones(2), torch.ones(2))
    with pytest.raises(SettingError, match="probabilities of k points"):
        surrogate_excess(HINGE, one, one * 1.1, one)
    with pytest.raises(SettingError, match="probabilities of k points"):
        surrogate_excess(HINGE, one, one, torch.ones(2))
    with pytest.raises(SettingError, match=r"lie in \[0, 1\]; got -0.1"):
        psi_transform(HINGE.loss, -0.1)
    with pytest.raises(NumericalError, match="finite loss"):
        psi_transform(lambda m: m * math.nan, 0.5)
    with pytest.raises(NumericalError, match="finite near 0"):
        is_calibrated(lambda m: m.log())
    with pytest.raises(SettingError, match="excess must be finite and at least 0"):
        HINGE.error_bound(-0.1)
