"""Reading out secrets: the shortest paths against enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.canaries import CanaryFormat
from torchstone.memory.exposure import log_perplexities
from torchstone.memory.extraction import extract

FORMS = [
    CanaryFormat((5, None, None, None), (0, 1, 2, 3)),
    CanaryFormat((5, 6, None, 4, 4, None, None, 6, 5), (3, 0, 2)),  # fixed tokens between and behind
    CanaryFormat((5, None), (0, 6)),
]


def table(seed: int, sharpness: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sharpness * torch.randn(7, 7, 7, generator=generator, dtype=torch.float64)


def model(scores: Tensor):
    def of(tokens: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        return scores[before, tokens]

    return of


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_are_those_of_enumeration(form: CanaryFormat, batch_size: int, seed: int) -> None:
    scores = model(table(seed))
    everything = log_perplexities(scores, form.sequences())
    best = min(5, form.size)
    found = extract(scores, form, best=5, batch_size=batch_size)
    order = everything.argsort()[:best]
    assert found.complete
    assert torch.allclose(found.log_perplexities, everything[order], rtol=1e-12)
    assert torch.equal(found.sequences, form.sequences()[order])


def test_a_confident_model_needs_few_expansions() -> None:
    form = CanaryFormat((5, *[None] * 8), (0, 1, 2, 3))  # 65,536 sequences
    found = extract(model(table(0, 20.0)), form, batch_size=1)
    assert found.complete
    assert found.expansions < 200
    assert float(found.log_perplexities) == pytest.approx(
        float(log_perplexities(model(table(0, 20.0)), form.sequences()).min())
    )


def test_all_of_a_format_and_no_more() -> None:
    form = FORMS[0]
    found = extract(model(table(1)), form, best=1000)
    assert found.complete
    assert len(found.sequences) == len(found.sequences.unique(dim=0)) == form.size
    assert bool((found.log_perplexities.diff() >= 0).all())


def test_a_spent_budget_is_said() -> None:
    found = extract(model(torch.zeros(7, 7, 7)), FORMS[0], batch_size=1, expansions=3)
    assert not found.complete
    assert found.expansions <= 3
    assert found.sequences.shape == (0, 4)


def test_impossible_sequences_are_never_found() -> None:
    scores = table(0)
    scores[:, :, 0] = -torch.inf
    found = extract(model(scores), FORMS[0], best=64)
    assert not found.complete
    assert len(found.sequences) == 27
    assert not bool((found.sequences == 0).any())


@pytest.mark.parametrize("settings", [{"best": 0}, {"batch_size": 0}, {"expansions": 0}])
def test_counts_that_are_not_positive(settings: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        extract(model(table(0)), FORMS[0], **settings)
