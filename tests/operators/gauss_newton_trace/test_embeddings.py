"""Traces of tables: rows looked up by tokens or positions, some several times, and rows used as weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification
from torchstone.operators import gauss_newton_trace

Written = Callable[..., nn.Module]
Build = Callable[[Written], nn.Module]
Check = Callable[..., None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "positions from a table": (
        lambda written: written(
            lambda m, x: m.inner[1]((x + m.inner[0](torch.arange(3)[None])).tanh()),
            nn.Embedding(5, 4),
            nn.Sequential(*head(12)),
        ),
        (3, 4),
    ),
    "as many positions from a table as examples, some twice": (
        lambda written: written(
            lambda m, x: m.inner[1]((x + m.inner[0](torch.tensor([0, 1, 1, 2]))).tanh()),
            nn.Embedding(5, 4, padding_idx=2),
            nn.Sequential(*head(16)),
        ),
        (4, 4),
    ),
    "rows of a table as weights": (
        lambda written: written(
            lambda m, x: (
                F.linear(x, m.inner[0](torch.tensor([2, 0, 2]))) + F.linear(x, m.inner[0].weight[1:4])
            ),
            nn.Embedding(5, 4),
        ),
        (4,),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str, check: Check, written: Written) -> None:
    make, shape = NETWORKS[name]
    check(make(written), shape, task=task)


def tokens() -> Tensor:
    return torch.randint(7, (6, 4), generator=generator(5))


def test_embeddings_with_repeated_and_padding_tokens(check: Check) -> None:
    model = nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Tanh(), *head(12))
    check(model, (), inputs=tokens())


def test_embedding_tied_to_the_outputs(check: Check, written: Written) -> None:
    model = written(
        lambda m, x: F.linear(m.inner[0](x).tanh().mean(1), m.inner[0].weight), nn.Embedding(7, 3)
    )
    check(model, (), inputs=tokens())


def test_embedding_time_first(check: Check, written: Written) -> None:
    model = written(
        lambda m, x: m.inner[1](m.inner[0](x.T).tanh().mean(0)), nn.Embedding(7, 3), nn.Linear(3, 3)
    )
    check(model, (), inputs=tokens())


@pytest.mark.parametrize(
    "network", [lambda m, _x: m.w, lambda m, _x: m.w.T.T, lambda m, x: m.w[: len(x)] + 0 * x]
)
def test_a_table_with_a_row_an_example_is_not_taken_for_unused(
    network: Callable[..., Tensor], written: Written, randomised: Any
) -> None:
    model = randomised(written(network, w=(4, 3)))
    data = (randn(4, 3), torch.randint(3, (4,), generator=generator(1)))
    result = gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    assert set(result.missing) == {"w"}
