import pytest
import torch

from torchstone.data.gaussians import GaussianPair
from torchstone.data.law import estimate_risk
from torchstone.data.thresholds import GridLaw
from torchstone.errors import SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", [GaussianPair(0.7), GridLaw.noisy_threshold()], ids=["gaussians", "grid"])
def test_the_estimate_and_its_standard_error_cover_the_exact_risk(law):
    def classifier(x):
        return (x[:, 0] > 0.3).long()

    exact = law.risk(classifier)
    estimates = [estimate_risk(law, classifier, 500, generator(seed)) for seed in range(400)]
    z = torch.tensor([(one.value - exact) / one.standard_error for one in estimates])
    # 400 z values: 95% cover within 3 binomial standard errors, and their mean is 0 within 4 of its own.
    assert abs(float((z.abs() < 1.96).double().mean()) - 0.95) < 0.033
    assert abs(float(z.mean())) < 0.2


def test_integrating_labels_out_beats_counting_errors():
    law = GaussianPair(0.3)
    x, y = law.sample(100_000, generator())
    counted = (law.bayes_classifier(x) != y).double()
    estimate = estimate_risk(law, law.bayes_classifier, 100_000, generator())
    eta = law.eta(x)
    spared = float((eta * (1 - eta)).mean())
    assert estimate.standard_error**2 * 100_000 == pytest.approx(float(counted.var()) - spared, rel=0.02)


@pytest.mark.parametrize(
    "classifier",
    [lambda x: x, lambda x: x[:, 0], lambda x: torch.full((len(x),), 2), lambda x: torch.zeros(len(x) - 1)],
)
def test_a_classifier_must_give_classes(classifier):
    with pytest.raises(SettingError, match="one class, 0 or 1, per input"):
        estimate_risk(GaussianPair(1.0), classifier, 10, generator())


def test_one_draw_has_no_standard_error():
    with pytest.raises(SettingError, match="at least two draws"):
        estimate_risk(GaussianPair(1.0), GaussianPair(1.0).bayes_classifier, 1, generator())
