"""Wrong labels among the training examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchstone.data.digits import digits
from torchstone.details import Images, Table
from torchstone.errors import NotApplicableError, SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.suspect_labels import SuspectLabels, find_suspects, judge
from torchstone.objectives import Classification
from torchstone.reading import Level
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import fit
from torchstone.workbench import Workbench


@pytest.fixture(scope="module", params=[0, 1])
def memorised(request: pytest.FixtureRequest) -> tuple[Workbench, set[int]]:
    """A network that has fitted every wrong label: the hard case, where its own margin says nothing."""
    data = digits(label_noise=0.1, seed=request.param)
    generator = torch.Generator().manual_seed(request.param)
    model = mlp([64, 128, 10], generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    fit(model, cross_entropy, *data.train, optimizer=optimizer, batch_size=64, epochs=60, generator=generator)
    assert mean_over(model, misclassified, *data.train) < 0.005
    specimen = Specimen(model, Classification(data.names), data.train, data.test)
    return Workbench.on(specimen), set(data.flipped.tolist())


def test_ten_percent_planted_flips_are_found(memorised: tuple[Workbench, set[int]]) -> None:
    bench, flipped = memorised
    reading = measure(SuspectLabels(), bench)
    found = find_suspects(
        {"inputs": bench.inputs("train")}, bench.labels("train"), bench.scores("train"), threshold=0.3
    )
    hits = len(flipped & set(found.rows.tolist()))
    assert hits / len(found.rows) >= 0.9  # precision
    assert hits / len(flipped) >= 0.9  # recall
    assert reading.verdict.level is Level.POOR
    assert reading.value == pytest.approx(0.1, abs=0.02)
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    assert sum(row[0] in flipped for row in table.rows) >= 0.9 * len(table.rows)
    assert any(isinstance(detail, Images) for detail in reading.details)


def test_the_proposed_class_is_usually_the_true_one(memorised: tuple[Workbench, set[int]]) -> None:
    bench, flipped = memorised
    seed = 0 if flipped == set(digits(label_noise=0.1, seed=0).flipped.tolist()) else 1
    clean = digits(seed=seed).train_y
    found = find_suspects({"inputs": bench.inputs("train")}, bench.labels("train"), bench.scores("train"))
    rows = torch.tensor(sorted(flipped & set(found.rows.tolist())))
    assert (found.proposed[rows] == clean[rows]).double().mean() >= 0.95


def test_clean_digits_are_good() -> None:
    data = digits()
    scores = nn.functional.one_hot(data.train_y, 10).double()
    found = find_suspects({"inputs": data.train_x.flatten(1)}, data.train_y, scores)
    share = len(found.rows) / len(data.train_y)
    assert share < 0.02
    assert judge(share).level is Level.GOOD


def test_votes_by_hand() -> None:
    """Four points on a line, two neighbours each, weights 2/3 and 1/3."""
    x = torch.tensor([[0.0], [1.0], [2.1], [10.0]])
    labels = torch.tensor([0, 0, 1, 1])
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = find_suspects({"x": x}, labels, scores, neighbours=2, threshold=0.5)
    # Point 0: neighbours 1 (class 0) and 2 (class 1): 1/3 - 2/3. Point 1: neighbours 0 and 2, the same.
    # Point 2: neighbours 1 and 0, both class 0: score 1, and the network rejects its label too.
    # Point 3: neighbours 2 (class 1) and 1 (class 0).
    assert found.score.tolist() == pytest.approx([-1 / 3, -1 / 3, 1.0, -1 / 3])
    assert found.rows.tolist() == [2]
    assert int(found.proposed[2]) == 0
    assert float(found.margin[2]) == -1.0


def test_the_network_is_one_more_voter() -> None:
    x, labels = torch.tensor([[0.0], [1.0], [2.1], [10.0]]), torch.tensor([0, 0, 1, 1])
    agreeing = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    rejecting = agreeing.clone()
    rejecting[0] = torch.tensor([0.0, 1.0])
    score = lambda scores: float(find_suspects({"x": x}, labels, scores, neighbours=2).score[0])
    assert score(agreeing) == pytest.approx(-1 / 3)
    assert score(rejecting) == pytest.approx(1 / 3)


def test_thresholds() -> None:
    assert [judge(share).level for share in (0.02, 0.021, 0.05, 0.051)] == [
        Level.GOOD,
        Level.ATTENTION,
        Level.ATTENTION,
        Level.POOR,
    ]


def test_one_example_has_no_neighbours() -> None:
    with pytest.raises(NotApplicableError, match="two training examples"):
        find_suspects({"x": torch.zeros(1, 1)}, torch.zeros(1, dtype=torch.long), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("neighbours", 0), ("threshold", -0.1), ("threshold", float("nan")), ("spaces", -1)],
)
def test_bad_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"suspect_labels.{setting}"):
        SuspectLabels(**{setting: value})  # pyright: ignore[reportArgumentType]
