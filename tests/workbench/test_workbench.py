"""What instruments share: results, needs, generators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchstone.errors import NotApplicableError
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.plan import Plan
from torchstone.reading import Need
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing import dense_gradient
from torchstone.workbench import Workbench


def data(count: int = 50, classes: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % classes


def network(outputs: int = 3) -> Any:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def bench(
    model: Any = None, objective: Objective | None = None, train: Any = None, **options: Any
) -> Workbench:
    model = network() if model is None else model
    specimen = Specimen(
        model, objective or Classification(), data() if train is None else train, batch_size=16, **options
    )
    return Workbench.on(specimen, "quick")


def test_shared_results_are_those_of_plain_torch() -> None:
    one, (x, y) = bench(), data()
    with torch.no_grad():
        scores = one.specimen.model(x)
    assert torch.allclose(one.outputs(), scores, atol=1e-6)
    assert torch.equal(one.labels(), y)
    assert torch.equal(one.errors(), scores.argmax(1) != y)
    assert one.scores().dtype == one.losses().dtype == torch.float64
    assert torch.allclose(
        one.losses(), nn.functional.cross_entropy(scores, y, reduction="none").double(), atol=1e-6
    )
    assert torch.equal(one.inputs(), x)
    assert one.input_shape() == (4,)
    flat = torch.cat([part.flatten() for part in one.gradient().values()])
    assert torch.allclose(flat, dense_gradient(one.specimen).double(), atol=1e-6)


def test_nothing_is_computed_twice() -> None:
    one = bench()
    for _ in range(3):
        one.outputs()
        one.scores()
        one.errors()
    assert one.specimen.passes.forward == 50
    one.gradient()
    one.gradient()
    assert (one.specimen.passes.forward, one.specimen.passes.backward) == (100, 50)


def test_what_does_not_fit_the_budget_is_computed_again_with_the_same_bits() -> None:
    plan = Plan("small", Plan.named("quick").most_expensive, None, None, 2**20)
    x, y = data(5000)
    specimen = Specimen(network(60), Classification(), (x, y % 3))  # 1.2 MB of outputs
    one = Workbench(specimen.prepared(), plan)
    first = one.outputs()
    assert torch.equal(first, one.outputs())
    assert one.specimen.passes.forward == 10_000


def test_a_generator_for_each_name_and_seed() -> None:
    draw = lambda seed, name: torch.rand(
        4, generator=Workbench(specimen, plan, seed).generator(name)
    ).tolist()
    specimen, plan = bench().specimen, Plan.named("quick")
    assert draw(0, "a") == draw(0, "a")
    drawn = [draw(seed, name) for seed in (0, 1, 10) for name in ("a", "b", "0:a")]
    assert len({tuple(one) for one in drawn}) == len(drawn)


ALL = set(Need)
ALWAYS = {Need.TRAIN, Need.INDEPENDENT_EXAMPLES}
CLASSES = {Need.LABELS, Need.SCORES}


@pytest.mark.parametrize(
    ("make", "has"),
    [
        (lambda: bench(), {*ALWAYS, *CLASSES, Need.FLOAT_INPUTS, Need.PARAMETERS}),
        (lambda: bench(test=data(9), recipe=Recipe(lr=0.1)),
         {*ALWAYS, *CLASSES, Need.FLOAT_INPUTS, Need.PARAMETERS, Need.TEST, Need.LEARNING_RATE}),
        (lambda: bench(recipe=Recipe(build=lambda: network())),
         {*ALWAYS, *CLASSES, Need.FLOAT_INPUTS, Need.PARAMETERS, Need.RETRAINING}),
        (lambda: bench(recipe=Recipe(optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))),
         {*ALWAYS, *CLASSES, Need.FLOAT_INPUTS, Need.PARAMETERS, Need.LEARNING_RATE}),
        (lambda: bench(network(1), Regression(), (data()[0], data()[0][:, 0])),
         {*ALWAYS, Need.FLOAT_INPUTS, Need.PARAMETERS}),
        (lambda: bench(nn.Embedding(11, 11), CausalLM(), torch.arange(40).reshape(8, 5) % 11),
         {*ALWAYS, Need.PARAMETERS}),
        (lambda: bench(network().requires_grad_(False)), {*ALWAYS, *CLASSES, Need.FLOAT_INPUTS}),
        (lambda: bench(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), mode="as_is"),
         {Need.TRAIN, *CLASSES, Need.FLOAT_INPUTS, Need.PARAMETERS}),
        (lambda: bench(nn.Conv2d(1, 3, 1), None, (torch.randn(8, 1, 4, 4), torch.arange(128).reshape(8, 4, 4) % 3)),
         {*ALWAYS, Need.FLOAT_INPUTS, Need.PARAMETERS}),
    ],
)  # fmt: skip
def test_needs(make: Any, has: set[Need]) -> None:
    one = make()
    assert {need for need in ALL if not one.lacks(need)} == has


def test_looking_needs_up_leaves_the_global_random_state_alone() -> None:
    specimen = Specimen(network(), Classification(), DataLoader(TensorDataset(*data()), batch_size=16))
    one = Workbench(specimen.prepared(memory_bytes=1), Plan.named("quick"))
    before = torch.get_rng_state()
    assert not any(one.lacks(need) for need in CLASSES)
    one.input_shape()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("ignored", [-100, 255, 1])
def test_examples_without_a_label_are_no_class(ignored: int) -> None:
    x, y = data()
    objective = Classification(ignore_index=ignored)
    y[7] = ignored
    one = bench(None, objective, (x, y))
    with pytest.raises(NotApplicableError, match="have no label"):
        one.labels()
    assert float(one.losses()[7]) == 0


def test_tasks_without_classes_or_continuous_inputs() -> None:
    numbers = bench(network(1), Regression(), (data()[0], data()[0][:, 0]))
    for ask in (numbers.scores, numbers.labels, numbers.errors):
        with pytest.raises(NotApplicableError, match="needs one"):
            ask()
    tokens = bench(nn.Embedding(11, 11), CausalLM(), torch.arange(40).reshape(8, 5) % 11)
    for ask in (tokens.inputs, tokens.input_shape):
        with pytest.raises(NotApplicableError, match="needs continuous inputs"):
            ask()


def test_sequences_padded_batch_by_batch_are_not_stacked() -> None:
    ragged = [torch.arange(3 * length).reshape(3, length) % 11 for length in (5, 7)]
    one = bench(nn.Embedding(11, 11), CausalLM(), ragged)
    assert one.losses().shape == (6,)
    with pytest.raises(NotApplicableError, match="outputs of one shape; those of different batches differ"):
        one.outputs()


def test_subsampling_is_noted() -> None:
    one = Workbench(
        Specimen(network(), Classification(), data(), data(9)).prepared(examples={"test": 4}),
        Plan.named("quick"),
    )
    assert one.sampling_notes == ("4 of 9 test examples, drawn with the seed",)
