import math

import pytest
import torch
from scipy import integrate

from torchstone.data.law import estimate_risk
from torchstone.data.two_moons import TwoMoons, two_moons
from torchstone.errors import DataError, SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [0.05, 0.2, 1.5])
def test_eta_equals_adaptive_quadrature_over_the_angle(noise):
    law = TwoMoons(noise)
    x = torch.rand(20, 2, generator=generator(), dtype=torch.float64) * torch.tensor([2.0, 1.0])

    def density(point, centre):
        def integrand(t):
            first, second = centre(t)
            return math.exp(-((point[0] - first) ** 2 + (point[1] - second) ** 2) / (2 * noise**2))

        return integrate.quad(integrand, 0, math.pi, limit=500, epsabs=0, epsrel=1e-11)[0]

    for point, eta in zip(x.tolist(), law.eta(x).tolist(), strict=True):
        zero = density(point, lambda t: (math.cos(t), math.sin(t)))
        one = density(point, lambda t: (1 - math.cos(t), 0.5 - math.sin(t)))
        assert eta == pytest.approx(one / (zero + one), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.5, 2.0])
def test_bayes_error_equals_the_risk_of_the_bayes_classifier(noise):
    law = TwoMoons(noise)
    estimate = estimate_risk(law, lambda x: (law.eta(x) > 0.5).long(), 20_000, generator())
    assert abs(law.bayes_error() - estimate.value) < 3 * estimate.standard_error


def test_labels_follow_eta():
    law = TwoMoons(0.3)
    x, y = law.sample(20_000, generator())
    eta = law.eta(x)
    # Calibrated in each tenth: the sum of residuals within 4 of its standard deviations.
    for low in torch.arange(10) / 10:
        chosen = (eta >= low) & (eta < low + 0.1)
        spread = (eta * (1 - eta))[chosen].sum().sqrt()
        assert float((y - eta)[chosen].sum().abs()) < 4 * float(spread) + 1e-9


def test_the_split_is_drawn_from_the_law():
    data = two_moons(train=300, test=50, label_noise=0.1, seed=4)
    clean = two_moons(train=300, test=50, seed=4)
    assert data.train_x.shape == (300, 2)
    assert data.train_x.dtype == torch.float32
    assert torch.equal((data.train_y != clean.train_y).nonzero().flatten(), data.flipped)
    assert torch.equal(data.test_x, clean.test_x)
    assert data.sha256() == two_moons(train=300, test=50, label_noise=0.1, seed=4).sha256()
    assert data.sha256() != two_moons(train=300, test=50, label_noise=0.1, seed=5).sha256()
    # The upper moon is class 0: its noiseless points lie above -0.2 and those of class 1 below 0.7.
    assert (
        float(data.test_x[data.test_y == 0, 1].mean()) > float(data.test_x[data.test_y == 1, 1].mean()) + 0.5
    )


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_noise_must_be_positive(noise):
    with pytest.raises(SettingError, match="noise must be positive"):
        two_moons(noise=noise)


def test_empty_parts_are_refused():
    with pytest.raises(DataError, match="at least one"):
        two_moons(train=0)
