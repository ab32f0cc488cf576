"""The alignment of the tangent kernel where it is known: linear networks, whose kernel is that of the inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.details import Curve, Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization.kernel_alignment import KernelAlignment, Spectral, judge
from torchstone.instruments.measurement import measure
from torchstone.kernels import unbiased_hsic, unbiased_linear_cka
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import ntk
from torchstone.reading import Level, Reading
from torchstone.testing.networks import LanguageModel
from torchstone.workbench import Workbench


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(model: nn.Module, seed: int) -> nn.Module:
    for position, parameter in enumerate(model.parameters()):
        noise = torch.randn(parameter.shape, generator=generator(100 * seed + position))
        parameter.data.copy_(noise / max(1, parameter.shape[-1]) ** 0.5)
    return model


def dense(seed: int = 0, outputs: int = 3) -> nn.Module:
    return drawn(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs)), seed)


def clusters(count: int, seed: int = 0, distance: float = 1.5) -> tuple[Tensor, Tensor]:
    labels = torch.randint(3, (count,), generator=generator(seed))
    x = torch.randn(count, 4, generator=generator(seed + 50)) + distance * torch.eye(4)[labels]
    return x, labels


def read(specimen: Specimen, **settings: int) -> Reading:
    return measure(KernelAlignment(**settings), Workbench.on(specimen))


def scalar(reading: Reading, name: str) -> float:
    found = next(detail for detail in reading.details if isinstance(detail, Scalars))
    return next(item.value for item in found.items if item.name == name)


def test_a_linear_network_is_aligned_as_its_inputs_are() -> None:
    x, labels = clusters(80)
    reading = read(Specimen(nn.Linear(4, 3), Classification(), (x, labels)))
    expected = unbiased_linear_cka(x.double(), torch.eye(3).double()[labels])
    assert reading.value == pytest.approx(expected, rel=1e-4)
    assert scalar(reading, "alignment of the inputs' own similarities") == pytest.approx(expected, rel=1e-4)
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    assert [row[0] for row in table.rows] == ["weight", "bias"]
    assert sum(float(row[1] or 0) for row in table.rows) == pytest.approx(100)


def test_energy_is_that_of_the_eigenvectors() -> None:
    ones = torch.cat([torch.ones(12, 1), torch.randn(12, 6, generator=generator())], dim=1)
    vectors = torch.linalg.qr(ones.double()).Q[
        :, 1:
    ]  # orthogonal to constants, so that centring changes nothing
    scales = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])
    x, model = (vectors * scales).float(), nn.Linear(6, 1, bias=False)
    first, last = (vectors[:, a] - vectors[:, b] for a, b in ((0, 1), (4, 5)))
    reading = read(Specimen(model, Regression(), (x, first.float())), top=2)
    assert scalar(reading, "targets in the 2 leading directions") == pytest.approx(100, rel=1e-4)
    flipped = read(Specimen(model, Regression(), (x, last.float())), top=2)
    assert scalar(flipped, "targets in the 2 leading directions") == pytest.approx(0, abs=1e-4)
    curve = next(detail for detail in flipped.details if isinstance(detail, Curve))
    assert curve.lines[0].y[3] == pytest.approx(0, abs=1e-3)
    assert curve.lines[0].y[5] == pytest.approx(100, rel=1e-4)


def test_change_since_initialisation() -> None:
    x, labels = clusters(60)
    model, start = dense(0), dense(1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    still = read(Specimen(model, Classification(), (x, labels), recipe=Recipe(initial_state=before)))
    assert scalar(still, "change since initialisation, 1 - CKA") == pytest.approx(0, abs=1e-6)
    assert scalar(still, "alignment at initialisation") == pytest.approx(still.value or 0, rel=1e-9)
    moved = read(
        Specimen(model, Classification(), (x, labels), recipe=Recipe(initial_state=start.state_dict()))
    )
    other = read(Specimen(start, Classification(), (x, labels)))
    assert scalar(moved, "change since initialisation, 1 - CKA") > 0.01
    assert scalar(moved, "alignment at initialisation") == pytest.approx(other.value or 0, rel=1e-6)
    assert moved.value == pytest.approx(still.value)


def test_initial_weights_that_do_not_fit_are_said() -> None:
    x, labels = clusters(30)
    state = {"0.weight": torch.zeros(2, 2)}
    reading = read(Specimen(dense(), Classification(), (x, labels), recipe=Recipe(initial_state=state)))
    assert any("initial_state does not fit the network (0.weight)" in note for note in reading.notes)
    assert any(
        "Recipe(initial_state=...)" in note
        for note in read(Specimen(dense(), Classification(), (x, labels))).notes
    )


def test_labels_without_a_pattern_deserve_attention() -> None:
    x, _ = clusters(120)
    levels = []
    for seed in range(10):
        noise = torch.randint(3, (120,), generator=generator(seed + 9))
        levels.append(read(Specimen(dense(), Classification(), (x, noise))).verdict.level)
    assert levels.count(Level.ATTENTION) >= 8  # one-sided 2.5% are aligned by chance
    assert read(Specimen(dense(), Classification(), clusters(120))).verdict.level is Level.INFORMATIVE


def test_the_interval_covers_the_alignment_of_the_law() -> None:
    """Of one large draw the kernel is computed once; its parts are independent small draws."""
    size, repeats = 60, 60
    x, labels = clusters(size * repeats, seed=999)
    kernel = ntk(Specimen(dense(3), Classification(), (x, labels)), outputs="trace").values.double()
    targets = torch.nn.functional.one_hot(labels).double()
    aligned = targets @ targets.T
    truth = (
        unbiased_hsic(kernel, aligned)
        / (unbiased_hsic(kernel, kernel) * unbiased_hsic(aligned, aligned)) ** 0.5
    )
    covered = 0
    for rows in torch.arange(len(x)).split(size):
        part = targets[rows] - targets[rows].mean(0)
        bar = Spectral.of(kernel[rows][:, rows], part).alignment
        covered += bar.low <= truth <= bar.high
    assert covered >= 52  # 57 expected; below 52 with probability 0.01
    reading = read(Specimen(dense(3), Classification(), (x[:size], labels[:size])))
    expected = Spectral.of(kernel[:size, :size], targets[:size] - targets[:size].mean(0)).alignment
    assert reading.uncertainty is not None
    assert (reading.uncertainty.low, reading.uncertainty.high) == pytest.approx(
        (expected.low, expected.high), rel=1e-4
    )


def test_many_outputs_are_estimated_by_random_combinations() -> None:
    x, labels = clusters(60)
    specimen = Specimen(dense(2, outputs=40), Classification(), (x, labels))
    exact, estimated = read(specimen, max_outputs=40), read(specimen)
    assert any("random combinations" in note for note in estimated.notes)
    assert not any("random combinations" in note for note in exact.notes)
    assert estimated.value == pytest.approx(exact.value, rel=0.1)


def test_examples_are_sampled_and_said() -> None:
    reading = read(Specimen(dense(), Classification(), clusters(100)), examples=40)
    assert any("Kernel of 40 training examples" in note for note in reading.notes)
    assert "of 40 hold" in reading.headline


def test_where_the_question_has_no_meaning() -> None:
    x, labels = clusters(40)
    cases = [
        (Specimen(dense(), Classification(), (x[:4], labels[:4])), "at least 5 training examples"),
        (Specimen(dense(), Regression(), (x, torch.ones(40, 3))), "targets that vary"),
        (Specimen(dense(0, 40), Classification(), (x, torch.arange(40))), "examples that share a label"),
        (Specimen(nn.Linear(4, 3), Classification(), (torch.ones(40, 4), labels)), "does not tell these examples apart"),
        (Specimen(LanguageModel(), CausalLM(), torch.randint(11, (9, 5), generator=generator())), "a real target per example"),
    ]  # fmt: skip
    for specimen, reason in cases:
        reading = read(specimen)
        assert reading.verdict.level is Level.NOT_APPLICABLE
        assert reason in reading.verdict.reason


def test_judgement() -> None:
    assert judge(0.01).level is Level.INFORMATIVE
    assert judge(0.0).level is Level.ATTENTION
    assert judge(float("nan")).level is Level.ATTENTION
    with pytest.raises(SettingError, match=r"kernel_alignment\.examples"):
        KernelAlignment(examples=4)
