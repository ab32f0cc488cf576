import pytest
import torch
from scipy.stats import chisquare

from torchstone.data.thresholds import GridLaw
from torchstone.errors import SettingError


def enumerated_risks(law: GridLaw) -> torch.Tensor:
    """Risk of every threshold straight from the joint law, by a loop."""
    joint = law.joint
    risks = []
    for classes in law.thresholds():
        right = sum(float(joint[i, int(c)]) for i, c in enumerate(classes))
        risks.append(1 - right)
    return torch.tensor(risks, dtype=torch.float64)


def test_risks_of_all_thresholds_equal_their_enumeration():
    law = GridLaw.noisy_threshold()
    edges = torch.arange(201, dtype=torch.float64) / 200
    risks = [law.risk(lambda x, t=t: (x[:, 0] >= t).long()) for t in edges]
    assert torch.allclose(torch.tensor(risks, dtype=torch.float64), enumerated_risks(law), rtol=0, atol=1e-13)


def test_bayes_error_is_the_least_risk_of_all_classifiers():
    eta = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law = GridLaw(eta)
    every = [[(code >> i) & 1 for i in range(10)] for code in range(1024)]
    risks = [law.risk(lambda x, c=c: torch.tensor(c)[law.index(x)]) for c in every]
    assert law.bayes_error() == pytest.approx(min(risks), abs=1e-15)
    assert max(risks) == pytest.approx(1 - law.bayes_error(), abs=1e-15)


def test_the_island_is_the_approximation_error():
    plain = GridLaw.noisy_threshold(island=None)
    assert float(enumerated_risks(plain).min()) == pytest.approx(plain.bayes_error(), abs=1e-13)
    with_island = GridLaw.noisy_threshold(flip=0.1, island=(0.7, 0.8))
    # A tenth of the mass is classified the wrong way round: 0.1 (0.9 - 0.1).
    excess = float(enumerated_risks(with_island).min()) - with_island.bayes_error()
    assert excess == pytest.approx(0.08, abs=1e-12)


def test_samples_follow_the_joint_law():
    law = GridLaw.noisy_threshold(points=10)
    x, y = law.sample(50_000, torch.Generator().manual_seed(0))
    cells = torch.bincount(law.index(x) * 2 + y, minlength=20)
    assert chisquare(cells.numpy(), law.joint.flatten().numpy() * 50_000).pvalue > 0.001
    assert torch.equal(law.eta(x), law.probabilities[law.index(x)])


def test_each_grid_point_lies_in_its_own_cell():
    law = GridLaw(torch.linspace(0, 1, 197))
    assert law.index(law.points[:, None]).tolist() == list(range(197))
    assert law.index(torch.tensor([[-1.0], [1.0], [2.0]])).tolist() == [0, 196, 196]


@pytest.mark.parametrize(
    "probabilities", [torch.zeros(0), torch.tensor(0.5), torch.tensor([0.5, 1.1]), torch.tensor([torch.nan])]
)
def test_probabilities_must_be_probabilities(probabilities):
    with pytest.raises(SettingError, match="GridLaw needs probabilities"):
        GridLaw(probabilities)


@pytest.mark.parametrize("settings", [{"points": 0}, {"flip": 0.6}, {"flip": -0.1}])
def test_impossible_threshold_laws_are_refused(settings):
    with pytest.raises(SettingError, match="noisy_threshold needs"):
        GridLaw.noisy_threshold(**settings)
