import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.datasets import make_friedman1

from torchstone.data.regression import MEAN, SPREAD, friedman, regression
from torchstone.errors import DataError, SettingError


def test_the_function_is_friedmans():
    u, y = make_friedman1(200, n_features=7, noise=0.0, random_state=0)
    assert friedman(torch.from_numpy(u)).numpy() == pytest.approx(y, rel=1e-12)


def test_the_constants_are_the_moments_of_the_law():
    first, second = (
        integrate.dblquad(lambda a, b, p=p: math.sin(math.pi * a * b) ** p, 0, 1, 0, 1, epsabs=1e-12)[0]
        for p in (1, 2)
    )
    # E (u - 1/2)^2 = 1/12 and its variance is 1/180; Var u = 1/12.
    assert pytest.approx(10 * first + 20 / 12 + 5 + 2.5, abs=1e-9) == MEAN
    variance = 100 * (second - first**2) + 400 / 180 + 100 / 12 + 25 / 12
    assert pytest.approx(math.sqrt(variance), abs=1e-9) == SPREAD


def test_targets_are_the_function_plus_noise_of_the_stated_variance():
    data = regression(train=20_000, test=10, features=8, noise=2.0, seed=1)
    assert data.noise_variance is not None
    assert data.noise_variance == pytest.approx((2 / SPREAD) ** 2)
    u = data.train_x.double() / math.sqrt(12) + 0.5
    assert 0 <= float(u.min()) <= float(u.max()) <= 1
    residual = data.train_y[:, 0].double() - (friedman(u) - MEAN) / SPREAD
    scaled = residual.square().sum() / data.noise_variance
    assert 0.001 < stats.chi2.cdf(float(scaled), 20_000) < 0.999
    assert abs(np.corrcoef(residual, u[:, 0])[0, 1]) < 4 / math.sqrt(20_000)


def test_inputs_and_targets_are_standardised():
    data = regression(train=20_000, test=10, noise=0.0)
    assert float(data.train_x.mean(0).abs().max()) < 0.03
    assert float((data.train_x.std(0) - 1).abs().max()) < 0.03
    assert abs(float(data.train_y.mean())) < 0.03
    assert abs(float(data.train_y.std()) - 1) < 0.03
    assert data.noise_variance == 0


def test_the_seed_decides_and_shapes_fit_a_network():
    data = regression(train=30, test=20, seed=2)
    assert data.train_x.shape == (30, 10)
    assert data.test_y.shape == (20, 1)
    assert data.sha256() == regression(train=30, test=20, seed=2).sha256()
    assert data.sha256() != regression(train=30, test=20, seed=3).sha256()


@pytest.mark.parametrize("settings", [{"features": 4}, {"noise": -1.0}, {"noise": math.nan}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(SettingError, match="features >= 5"):
        regression(**settings)


def test_empty_parts_are_refused():
    with pytest.raises(DataError, match="at least one"):
        regression(test=0)
