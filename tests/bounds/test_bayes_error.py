"""Laws whose Bayes error is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from torchstone.bounds.bayes_error import (
    NeighbourError,
    bayes_error_interval,
    cover_hart_bracket,
    nearest_neighbour_error,
    tightest_bracket,
)
from torchstone.errors import SettingError


def two_gaussians(n: int, mu: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """N(-mu, 1) and N(mu, 1) with equal weights: the Bayes error is Phi(-mu)."""
    y = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64) + mu * (2 * y[:, None] - 1)
    return x, y


@pytest.mark.parametrize(
    ("mu", "n", "tolerance"), [(0.5, 5000, 0.02), (1.0, 20_000, 0.01), (2.0, 5000, 0.01)]
)
def test_nearest_neighbour_error_lies_between_the_cover_hart_limits(
    mu: float, n: int, tolerance: float
) -> None:
    # Three standard errors of the nearest-neighbour error are within each tolerance.
    generator = torch.Generator().manual_seed(1)
    bayes = float(stats.norm.cdf(-mu))
    train, test = (two_gaussians(n, mu, generator) for _ in range(2))
    error = float(nearest_neighbour_error(*train, *test).double().mean())
    assert bayes - tolerance <= error <= 2 * bayes * (1 - bayes) + tolerance
    rule = ((test[0][:, 0] > 0).long() != test[1]).double().mean()
    assert abs(float(rule) - bayes) < 3 * math.sqrt(bayes * (1 - bayes) / n)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_bracket_inverts_the_cover_hart_inequality(classes: int) -> None:
    worst = (classes - 1) / classes
    for share in (0.0, 1e-9, 0.1, 0.5, 0.999, 1.0):
        bayes = share * worst
        low, high = cover_hart_bracket(bayes * (2 - bayes / worst), classes)
        assert low == pytest.approx(bayes, rel=1e-6, abs=1e-12)
        assert low <= high <= worst + 1e-15
    assert cover_hart_bracket(1.0, classes) == pytest.approx((worst, worst))


def test_label_noise_is_recovered_by_the_lower_end() -> None:
    # Well separated clusters with uniform label noise: the limit of the upper inequality is attained.
    generator = torch.Generator().manual_seed(2)
    classes, noise, n = 5, 0.3, 4000
    y = torch.randint(classes, (n,), generator=generator)
    x = 100.0 * torch.nn.functional.one_hot(y, classes) + torch.randn(n, classes, generator=generator)
    flipped = torch.rand(n, generator=generator) < noise
    y = torch.where(flipped, (y + torch.randint(1, classes, (n,), generator=generator)) % classes, y)
    wrong = nearest_neighbour_error(x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :])
    interval = bayes_error_interval(int(wrong.sum()), len(wrong), classes, 0.999)
    assert interval.low < noise < interval.high
    assert cover_hart_bracket(float(wrong.double().mean()), classes)[0] == pytest.approx(noise, abs=0.03)


def test_interval_covers_the_bracket_of_the_true_error() -> None:
    # Enumerated over all counts: the bracket of the true 1-NN error lies inside at least as often as said.
    n, classes = 60, 3
    intervals = [bayes_error_interval(k, n, classes, 0.9) for k in range(n + 1)]
    for error in (0.01, 0.1, 0.35, 0.6):
        low, high = cover_hart_bracket(error, classes)
        covered = sum(
            stats.binom.pmf(k, n, error)
            for k, found in enumerate(intervals)
            if found.low <= low and high <= found.high
        )
        assert covered >= 0.9


def test_the_best_of_several_rules_is_covered_as_often_as_it_says() -> None:
    # Three dependent rules: chosen after looking, their limits hold for the least error of all and of the single ones.
    generator, n, repeats, confidence = torch.Generator().manual_seed(5), 80, 400, 0.8
    errors = torch.tensor([0.22, 0.2, 0.18], dtype=torch.float64)
    low, _ = cover_hart_bracket(0.2, 2)
    covered = 0
    for _ in range(repeats):
        wrong = (torch.rand(n, 1, generator=generator, dtype=torch.float64) < errors).sum(0).tolist()
        rules = [
            NeighbourError(str(i), k, n, neighbours)
            for i, (k, neighbours) in enumerate(zip(wrong, (1, 1, 5), strict=True))
        ]
        found = tightest_bracket(rules, 2, confidence).interval
        covered += found.low <= low and found.high >= 0.18
    assert covered / repeats >= confidence


def test_errors_agree_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(300, 6, generator=generator), torch.randint(4, (300,), generator=generator)
    model = KNeighborsClassifier(1, algorithm="brute").fit(x[:200].numpy(), y[:200].numpy())
    theirs = torch.from_numpy(model.predict(x[200:].numpy())) != y[200:]
    assert torch.equal(nearest_neighbour_error(x[:200], y[:200], x[200:], y[200:]), theirs)
    for i in range(0, 300, 37):
        keep = torch.arange(300) != i
        alone = nearest_neighbour_error(x[keep], y[keep], x[i : i + 1], y[i : i + 1], neighbours=5)
        assert bool(nearest_neighbour_error(x, y, neighbours=5)[i]) == bool(alone[0])


def test_more_neighbours_and_better_features_only_tighten_the_upper_end() -> None:
    generator = torch.Generator().manual_seed(4)
    train, test = two_gaussians(3000, 1.0, generator), two_gaussians(3000, 1.0, generator)
    rules = []
    for name, scale in (("signal", 0.0), ("signal and noise", 3.0)):
        noise = [scale * torch.randn(3000, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
        x, z = torch.cat([train[0], noise[0]], 1), torch.cat([test[0], noise[1]], 1)
        for k in (1, 51):
            wrong = nearest_neighbour_error(x, train[1], z, test[1], neighbours=k)
            rules.append(NeighbourError(f"{name}, k={k}", int(wrong.sum()), 3000, k))
    found = tightest_bracket(rules, classes=2)
    assert found.highest_by == "signal, k=51"
    assert found.lowest_by == "signal, k=1"
    assert float(stats.norm.cdf(-1)) in found.interval
    assert found.interval.width < bayes_error_interval(rules[0].errors, 3000, 2).width


def test_bad_inputs_are_refused() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    with pytest.raises(SettingError, match="two classes"):
        cover_hart_bracket(0.1, 1)
    with pytest.raises(SettingError, match=r"\[0, 1\]"):
        cover_hart_bracket(math.nan, 2)
    with pytest.raises(SettingError, match="given together"):
        nearest_neighbour_error(x, y, x)
    with pytest.raises(SettingError, match="train labels"):
        nearest_neighbour_error(x, y.float())
    with pytest.raises(SettingError, match="test labels"):
        nearest_neighbour_error(x, y, x, y[:2])
    with pytest.raises(SettingError, match="neighbours=1"):
        tightest_bracket([NeighbourError("a", 1, 10, 3)], 2)
