import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.neighbors import KNeighborsClassifier

from torchstone.data.gaussians import GaussianPair
from torchstone.data.law import estimate_risk
from torchstone.errors import SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dimension", [1, 2, 10])
@pytest.mark.parametrize("mu", [0.0, 0.5, 2.0])
def test_bayes_error_is_the_error_of_the_bayes_classifier(mu, dimension):
    law = GaussianPair(mu, dimension)
    assert law.bayes_error() == pytest.approx(stats.norm.cdf(-mu), rel=1e-14)
    x, y = law.sample(200_000, generator())
    error = float((law.bayes_classifier(x) != y).double().mean())
    r = law.bayes_error()
    assert abs(error - r) <= 3 * math.sqrt(r * (1 - r) / len(y))


def test_a_small_bayes_error_keeps_its_digits():
    assert GaussianPair(10.0).bayes_error() == pytest.approx(stats.norm.sf(10), rel=1e-12)
    assert GaussianPair(8.0).risk(lambda x: (x[:, 0] > 0).long()) == pytest.approx(
        stats.norm.sf(8), rel=1e-11
    )


def test_eta_is_bayes_rule_on_the_densities():
    law = GaussianPair(0.8, 3)
    x = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    one = stats.multivariate_normal(law.mean.numpy()).pdf(x)
    zero = stats.multivariate_normal(-law.mean.numpy()).pdf(x)
    assert law.eta(x).numpy() == pytest.approx(one / (one + zero), rel=1e-12)


def test_risk_of_classifiers_with_many_pieces_equals_quadrature():
    rng = np.random.default_rng(0)
    for pieces in (1, 2, 5, 20):
        edges = torch.from_numpy(np.sort(rng.normal(scale=2, size=pieces)))
        law = GaussianPair(float(rng.uniform(0.2, 2)))

        def classifier(x, edges=edges):
            return torch.searchsorted(edges, x[:, 0]) % 2

        def wrong(t, law=law, classifier=classifier):
            is_one = bool(classifier(torch.tensor([[t]], dtype=torch.float64)))
            return stats.norm.pdf(t, -law.mu if is_one else law.mu) / 2

        knots = [-15.0, *edges.tolist(), 15.0]
        exact = sum(
            integrate.quad(wrong, low, high, epsabs=1e-13)[0] for low, high in itertools.pairwise(knots)
        )
        assert law.risk(classifier) == pytest.approx(exact, abs=1e-11)


def test_risk_of_constant_and_worst_classifiers():
    law = GaussianPair(1.3)
    assert law.risk(lambda x: torch.ones(len(x))) == pytest.approx(0.5, abs=1e-15)
    assert law.risk(lambda x: 1 - law.bayes_classifier(x)) == pytest.approx(1 - law.bayes_error(), abs=1e-15)
    assert law.risk(law.bayes_classifier) == pytest.approx(law.bayes_error(), abs=1e-14)


@pytest.mark.parametrize("dimension", [1, 4])
def test_linear_risk_is_exact(dimension):
    law = GaussianPair(0.9, dimension)
    weight = torch.randn(dimension, generator=generator(), dtype=torch.float64)

    def classifier(x):
        return (x @ weight + 0.4 > 0).long()

    estimate = estimate_risk(law, classifier, 200_000, generator(1))
    assert abs(law.linear_risk(weight, 0.4) - estimate.value) < 3 * estimate.standard_error
    assert law.linear_risk(law.mean) == pytest.approx(law.bayes_error(), rel=1e-13)
    assert law.linear_risk(torch.zeros(dimension), 1.0) == 0.5
    if dimension == 1:
        assert law.linear_risk(weight, 0.4) == pytest.approx(law.risk(classifier), abs=1e-13)


def test_one_nearest_neighbour_lies_in_the_cover_hart_bracket():
    law = GaussianPair(1.0)
    train_x, train_y = law.sample(20_000, generator(0))
    test_x, test_y = law.sample(20_000, generator(1))
    rule = KNeighborsClassifier(1).fit(train_x, train_y)
    error = 1 - rule.score(test_x, test_y)
    r = law.bayes_error()
    assert r - 0.01 <= error <= 2 * r * (1 - r) + 0.01


def test_impossible_laws_and_questions_are_refused():
    with pytest.raises(SettingError, match="finite mu >= 0"):
        GaussianPair(-1.0)
    with pytest.raises(SettingError, match="finite mu >= 0"):
        GaussianPair(math.nan)
    with pytest.raises(SettingError, match="dimension >= 1"):
        GaussianPair(1.0, 0)
    with pytest.raises(SettingError, match="one dimension"):
        GaussianPair(1.0, 2).risk(GaussianPair(1.0, 2).bayes_classifier)
    with pytest.raises(SettingError, match="weight must have shape"):
        GaussianPair(1.0, 2).linear_risk(torch.ones(3))
