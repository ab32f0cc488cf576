"""Norms and inner products of single examples' gradients against gradients one by one.

Every layer rule is in `gauss_newton_trace/`; here are compositions, pairs of splits, memory and refusals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.operators import GradientCovariance, gradient_gram, gradient_norms
from torchstone.operators.example_gradients.gram import GRAM_BYTES, gram_of
from torchstone.operators.example_gradients.rows import FormedRows
from torchstone.testing import per_example_gradients, zoo

WIDTH, STEPS = 4, 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured - exact).norm() / exact.norm().clamp(min=1e-300))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    model.double().eval()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(0.6 * randn(*parameter.shape, seed=100 * seed + position))
    for position, (name, buffer) in enumerate(model.named_buffers()):
        if "running" in name:
            buffer.copy_(0.5 + randn(*buffer.shape, seed=50 + position).abs())
    return model


# -- random networks ---------------------------------------------------------------------------------------------------


class Along(nn.Module):
    """A module over channels, on sequences (N, T, width)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.mT).mT


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Twice(nn.Module):
    """A layer called twice, around a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.layer(x).tanh())


class Recurs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.transpose(0, 1))[0].transpose(0, 1)


class TiedBack(nn.Module):
    """A matrix and its transpose, and a bias that is also a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(WIDTH, 6)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w).tanh() @ self.w.T * self.b + self.b


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, STEPS + 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, 1 : STEPS + 1]


class Squares(nn.Module):
    """No rule: its gradients are formed."""

    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, x.flip(1)).tanh()


def frozen() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.weight.requires_grad_(False)
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Linear(WIDTH, WIDTH),
    "wide": lambda: nn.Sequential(nn.Linear(WIDTH, 40), nn.ReLU(), nn.Linear(40, WIDTH, bias=False)),
    "frozen": frozen,
    "convolution": lambda: Along(nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "by channel": lambda: Along(nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": lambda: Along(nn.BatchNorm1d(WIDTH)),
    "group norm": lambda: Along(nn.GroupNorm(2, WIDTH)),
    "prelu": lambda: nn.PReLU(),
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "attention": Attends,
    "twice": Twice,
    "recurrent": Recurs,
    "tied": TiedBack,
    "positions": Positions,
    "bilinear": Squares,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5),
    seed=st.integers(0, 9),
    task=st.sampled_from(["classification", "regression"]),
    batch_size=st.sampled_from([1, 3, 10]),
    memory_bytes=st.sampled_from([1, 3000, 2**28]),
)
def test_random_networks(names: list[str], seed: int, task: str, batch_size: int, memory_bytes: int) -> None:
    layers = [LAYERS[name]() for name in names]
    model = randomised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * STEPS, 3)), seed)
    x = randn(5, STEPS, WIDTH, seed=seed)
    labels = torch.randint(3, (5,), generator=seeded(seed))
    classifies = task == "classification"
    data = (x, labels if classifies else randn(5, 3, seed=seed + 1))
    objective: Objective = Classification() if classifies else Regression()
    specimen = Specimen(model, objective, data, batch_size=batch_size)
    rows = per_example_gradients(specimen)
    gram = gradient_gram(specimen, memory_bytes=memory_bytes)
    assert error(gram.matrix, rows @ rows.T) < 1e-11
    assert torch.equal(gram.matrix, gram.matrix.T)
    norms = gradient_norms(specimen, memory_bytes=memory_bytes)
    assert error(norms.squared, rows.square().sum(1)) < 1e-11
    assert all(("bilinear" in names) == bool(one.formed) for one in (gram, norms))


# -- pairs of splits, choices of parameters ----------------------------------------------------------------------------


def two_splits() -> Specimen:
    model = randomised(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    )
    train = (randn(9, 1, 6, 6), torch.randint(3, (9,), generator=seeded(1)))
    test = (randn(5, 1, 6, 6, seed=2), torch.randint(3, (5,), generator=seeded(3)))
    return Specimen(model, Classification(), train, test, batch_size=4)


@pytest.mark.parametrize("memory_bytes", [1, 10_000, 2**28])
def test_examples_of_two_splits(memory_bytes: int) -> None:
    specimen = two_splits()
    swapped = Specimen(
        specimen.model, Classification(), specimen.split("test").source, specimen.split("train").source
    )
    rows, columns = per_example_gradients(specimen), per_example_gradients(swapped)
    found = gradient_gram(specimen, "train", "test", memory_bytes=memory_bytes)
    assert found.matrix.shape == (9, 5)
    assert error(found.matrix, rows @ columns.T) < 1e-12
    back = gradient_gram(specimen, "test", "train", memory_bytes=memory_bytes)
    assert error(back.matrix, found.matrix.T) < 1e-13
    within = gradient_gram(specimen, "test", memory_bytes=memory_bytes)
    assert error(within.matrix, columns @ columns.T) < 1e-12
    assert error(gradient_norms(specimen, "test").squared, columns.square().sum(1)) < 1e-12


def test_some_parameters_only() -> None:
    specimen = two_splits()
    rows = per_example_gradients(specimen)
    sizes = [parameter.numel() for parameter in specimen.trainable.values()]
    parts = dict(zip(specimen.trainable, rows.split(sizes, dim=1), strict=True))
    chosen = torch.cat([parts["0.weight"], parts["4.bias"]], dim=1)
    gram = gradient_gram(specimen, names=["4.bias", "0.weight"])
    assert error(gram.matrix, chosen @ chosen.T) < 1e-12
    norms = gradient_norms(specimen, names=["4.bias", "0.weight"])
    assert list(norms.per_parameter) == ["0.weight", "4.bias"]
    assert error(norms.squared, chosen.square().sum(1)) < 1e-12


def test_the_second_moment_is_the_trace_of_the_covariance_and_the_mean() -> None:
    specimen = two_splits()
    norms, gram = gradient_norms(specimen), gradient_gram(specimen).matrix
    C = GradientCovariance(specimen).to_dense()
    mean = torch.cat([part.reshape(-1) for part in specimen.gradient().values()])
    assert norms.second_moment == pytest.approx(float(C.trace() + mean @ mean), rel=1e-11)
    assert float(gram.mean()) == pytest.approx(float(mean @ mean), rel=1e-11)
    torch.testing.assert_close(norms.norms, gram.diagonal().sqrt())


# -- sequences ---------------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Embedding tied to the outputs, positions cut to the sequence's length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(7, width, padding_idx=0), nn.Linear(width, width)
        self.positions = nn.Parameter(torch.zeros(9, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return self.inner(x).tanh() @ self.embedding.weight.T


@pytest.mark.parametrize("width", [2, 30])
@pytest.mark.parametrize("memory_bytes", [1, 2**28])
def test_batches_of_different_lengths(width: int, memory_bytes: int) -> None:
    data = [torch.randint(7, (3, length), generator=seeded(length)) for length in (4, 9, 2)]
    specimen = Specimen(randomised(Tokens(width)), CausalLM(), data)
    rows = per_example_gradients(specimen)
    assert error(gradient_gram(specimen, memory_bytes=memory_bytes).matrix, rows @ rows.T) < 1e-12
    norms = gradient_norms(specimen, memory_bytes=memory_bytes)
    assert error(norms.squared, rows.square().sum(1)) < 1e-12


def test_a_part_of_a_weight_that_depends_on_the_batch() -> None:
    """Two batches use different rows of one matrix in the same way: their products are not those of factors."""

    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            start = int(x[0, 0] > 0)
            return F.linear(x, self.w[start : start + 3])

    x = randn(4, 4)
    x[:2, 0], x[2:, 0] = 1.0, -1.0
    specimen = Specimen(
        randomised(Chooses()), Classification(), (x, torch.tensor([0, 1, 2, 0])), batch_size=2
    )
    rows = per_example_gradients(specimen)
    expected = rows @ rows.T
    assert error(gradient_gram(specimen).matrix, expected) < 1e-12
    assert float(expected[:2, 2:].abs().max()) > 0


# -- hard cases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in zoo() if not case.refused], ids=lambda case: case.name)
def test_the_zoo(case: Any) -> None:
    specimen = case.specimen()
    if not specimen.trainable:
        with pytest.raises(SpecimenError, match="Curvature needs at least one trainable parameter; got none"):
            gradient_gram(specimen)
        return
    if specimen.dtype != torch.float64:
        specimen = case.around(specimen.model.double())
    specimen = specimen.prepared()
    if specimen.coupled:
        for function in (gradient_gram, gradient_norms):
            with pytest.raises(
                SpecimenError, match="examples that do not influence each other; got gradients one by one"
            ):
                function(specimen)
        return
    rows = per_example_gradients(specimen)
    assert error(gradient_gram(specimen, memory_bytes=2**24).matrix, rows @ rows.T) < 1e-11
    assert error(gradient_norms(specimen).squared, rows.square().sum(1)) < 1e-11


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    exact = two_splits()
    rows = per_example_gradients(exact)
    low = Specimen(exact.model.to(dtype), Classification(), exact.split("train").source, batch_size=4)
    gram, norms = gradient_gram(low), gradient_norms(low)
    assert gram.matrix.dtype == norms.squared.dtype == torch.float64
    assert error(gram.matrix, rows @ rows.T) < tolerance
    assert error(norms.squared, rows.square().sum(1)) < tolerance


def test_one_example_and_no_gradient_at_all() -> None:
    model = randomised(nn.Linear(3, 2))
    one = Specimen(model, Classification(), (randn(1, 3), torch.tensor([1])))
    square = per_example_gradients(one).square().sum()
    assert float(gradient_gram(one).matrix) == pytest.approx(float(square), rel=1e-12)
    assert float(gradient_norms(one).squared) == pytest.approx(float(square), rel=1e-12)
    ignored = Specimen(model, Classification(), (randn(3, 3), torch.full((3,), -100)))
    assert torch.equal(gradient_gram(ignored).matrix, torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(gradient_norms(ignored).squared, torch.zeros(3, dtype=torch.float64))


def test_control_flow_that_depends_on_data_has_gradients_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.bend = nn.Linear(4, 3), nn.Bilinear(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return self.bend(h, h) if bool((h > -1e9).all()) else h

    data = (randn(6, 4), torch.randint(3, (6,), generator=seeded(1)))
    specimen = Specimen(randomised(Branching()), Classification(), data, batch_size=4)
    rows = per_example_gradients(specimen)
    gram, norms = gradient_gram(specimen), gradient_norms(specimen)
    assert gram.formed == norms.formed == ("bend.weight",)
    assert error(gram.matrix, rows @ rows.T) < 1e-12
    assert error(norms.squared, rows.square().sum(1)) < 1e-12


def test_losses_that_depend_on_each_other_are_refused() -> None:
    class Contrast(Objective):
        def outputs(self, model: nn.Module, batch: Any) -> Tensor:
            return model(batch)

        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")

    specimen = Specimen(randomised(nn.Linear(3, 4)), Contrast(), randn(6, 3))
    for function in (gradient_gram, gradient_norms):
        with pytest.raises(SettingError, match="losses that depend on their own example only"):
            function(specimen)


def test_nothing_is_left_behind_and_the_same_bits_come_again() -> None:
    specimen = two_splits()
    state = {name: value.clone() for name, value in specimen.model.state_dict().items()}
    rng = torch.random.get_rng_state()
    first, second = gradient_gram(specimen).matrix, gradient_gram(specimen).matrix
    assert torch.equal(first, second)
    assert torch.equal(gradient_norms(specimen).squared, gradient_norms(specimen).squared)
    assert all(torch.equal(state[name], value) for name, value in specimen.model.state_dict().items())
    assert all(parameter.grad is None for parameter in specimen.model.parameters())
    assert torch.equal(rng, torch.random.get_rng_state())


def test_formed_rows_in_tiles_of_any_size() -> None:
    left, right = randn(5, 2, 7), randn(4, 3, 7, seed=1)
    expected = torch.einsum("ncp,mdp->ncmd", left, right)
    for memory_bytes, swapped in itertools.product((1, 700, GRAM_BYTES), (False, True)):
        if swapped:
            found = gram_of(FormedRows(right), FormedRows(left), memory_bytes).permute(2, 3, 0, 1)
        else:
            found = gram_of(FormedRows(left), FormedRows(right), memory_bytes)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
