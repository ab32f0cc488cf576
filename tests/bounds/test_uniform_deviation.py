"""Uniform deviation over finite classes: identities on every sample, coverage by simulation, sample sizes."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.uniform_deviation import (
    consistent_class_bound,
    finite_class_deviation,
    finite_class_risk_bound,
    finite_class_sample_size,
    occam_deviation,
    uniform_deviation,
)
from torchstone.errors import NumericalError, SettingError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coins(members: int, n: int, repeats: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Risks and empirical risks of independent predictors, the case where a union bound gives least away."""
    generator = seeded(seed)
    risks = 0.3 + 0.2 * torch.rand(members, generator=generator, dtype=torch.float64)
    trials = torch.full((repeats, members), float(n), dtype=torch.float64)
    return risks, torch.binomial(trials, risks, generator=generator) / n


def test_excess_is_at_most_twice_the_supremum_and_comes_close() -> None:
    risks, drawn = coins(40, 30, 2000, seed=1)
    found = [uniform_deviation(risks, empirical) for empirical in drawn]
    assert all(each.excess <= 2 * each.supremum + 1e-12 for each in found)
    assert max(each.excess / each.supremum for each in found) > 0.5
    assert uniform_deviation(
        torch.tensor([0.45, 0.55]), torch.tensor([0.501, 0.499])
    ).excess == pytest.approx(0.1)
    for each, empirical in zip(found[:50], drawn, strict=False):
        assert each.supremum == pytest.approx(
            max(abs(float(r - e)) for r, e in zip(risks, empirical, strict=True))
        )
        assert float(empirical[each.minimiser]) == float(empirical.min())
        assert each.excess == pytest.approx(float(risks[each.minimiser] - risks[each.best]))


def test_ties_are_taken_at_their_worst() -> None:
    found = uniform_deviation(torch.tensor([0.1, 0.4, 0.2]), torch.tensor([0.2, 0.2, 0.2]))
    assert (found.minimiser, found.best) == (1, 0)
    assert found.excess == pytest.approx(0.3)


@pytest.mark.parametrize("delta", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("members", [1, 20, 400])
def test_the_union_bound_covers(delta: float, members: int) -> None:
    n, repeats = 80, 2000
    risks, drawn = coins(members, n, repeats, seed=members)
    suprema = (risks - drawn).abs().amax(dim=1)
    bound = finite_class_deviation(members, n, delta)
    assert float((suprema > bound).double().mean()) <= delta
    assert float(suprema.max()) > 0.7 * bound
    one_sided = (risks - drawn).amax(dim=1) > finite_class_risk_bound(0.0, members, n, delta).value
    assert float(one_sided.double().mean()) <= delta


def test_prior_weights_hold_for_all_members_at_once() -> None:
    n, repeats, delta, members = 60, 2000, 0.1, 300
    risks, drawn = coins(members, n, repeats, seed=2)
    weights = [1 / ((k + 1) * (k + 2)) for k in range(members)]  # sums to less than 1, goes on for ever
    allowed = torch.tensor([occam_deviation(math.log(w), n, delta) for w in weights], dtype=torch.float64)
    assert float((risks - drawn > allowed).any(dim=1).double().mean()) <= delta
    assert float(allowed[0]) < finite_class_deviation(members, n, delta) < float(allowed[-1])


def test_the_consistent_bound_covers_at_its_faster_rate() -> None:
    generator, n, delta, repeats = seeded(3), 40, 0.1, 3000
    # Errors near the bound, where missing them by luck is most dangerous.
    risks = torch.linspace(0, 0.3, 100, dtype=torch.float64)
    seen = torch.binomial(
        torch.full((repeats, 100), float(n), dtype=torch.float64), risks, generator=generator
    )
    worst = torch.where(seen == 0, risks, torch.zeros(())).amax(dim=1)
    assert float((worst > consistent_class_bound(100, n, delta)).double().mean()) <= delta
    assert float(worst.max()) > 0.5 * consistent_class_bound(100, n, delta)
    assert consistent_class_bound(50, 100, 0.05) == pytest.approx((math.log(50) + math.log(20)) / 100)


def test_sample_sizes_invert_deviations() -> None:
    for members, epsilon, delta, scale in ((1, 0.01, 0.5, 1.0), (10**30, 0.1, 1e-9, 3.0), (7, 5.0, 0.1, 1.0)):
        n = finite_class_sample_size(members, epsilon, delta, scale)
        assert finite_class_deviation(members, n, delta, scale) <= epsilon * (1 + 1e-12)
        assert n == 1 or finite_class_deviation(members, n - 1, delta, scale) > epsilon
    assert finite_class_deviation(2**5000, 10**6) == pytest.approx(
        math.sqrt((5001 * math.log(2) + math.log(20)) / 2e6)
    )


def test_parts_of_the_risk_bound() -> None:
    bound = finite_class_risk_bound(0.2, 1000, 500, delta=0.05, largest_loss=2.0)
    assert bound.value == pytest.approx(0.2 + 2 * math.sqrt(math.log(1000 / 0.05) / 1000), rel=1e-14)
    assert bound.deviation == pytest.approx(2 * math.sqrt(math.log(20) / 1000), rel=1e-14)
    assert finite_class_risk_bound(0.2, 1, 500).complexity == 0


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="a risk and an empirical risk for each member"):
        uniform_deviation(torch.ones(3), torch.ones(2))
    with pytest.raises(SettingError, match="a risk and an empirical risk for each member"):
        uniform_deviation(torch.ones(0), torch.ones(0))
    with pytest.raises(NumericalError, match="finite risks"):
        uniform_deviation(torch.tensor([math.nan]), torch.tensor([0.0]))
    with pytest.raises(SettingError, match="cardinality must be a whole number of at least 1"):
        finite_class_deviation(0, 10)
    with pytest.raises(SettingError, match="delta, the probability"):
        finite_class_deviation(3, 10, delta=2.0)
    with pytest.raises(SettingError, match="deviation must be finite and above 0"):
        finite_class_sample_size(3, 0.0)
    with pytest.raises(SettingError, match="-log_weight must be finite and at least 0"):
        occam_deviation(0.1, 10)
    with pytest.raises(SettingError, match="largest_loss must be finite and above 0"):
        occam_deviation(-1.0, 10, largest_loss=-1.0)
    with pytest.raises(SettingError, match="n must be"):
        consistent_class_bound(3, 0)
