"""Parts of memorised classes: the gate, and the pairs that are compared."""

import torch

from torchstone.atlas.claims.memorisation import random_labels_need_more_parts as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.details import Table


class TestRandomLabelsNeedMoreParts(ClaimConformance):
    id = "random_labels_need_more_parts"

    def test_area_with_true_labels_is_larger_in_all_of_5_pairs(self):
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        assert len(table.rows) == 5
        for _, true, random, *errors in table.rows:
            assert true > random  # pyright: ignore[reportOperatorIssue]
            assert errors == [0.0, 0.0]


def test_pairs_start_from_the_same_weights_and_differ_in_their_labels():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 10
    run = module.train(x, torch.stack([y, y, y, (y + 1) % 10]), 1, torch.Generator().manual_seed(1))
    weights = next(iter(run.ensemble.parameters.values()))
    assert torch.allclose(weights[0], weights[2])  # the same labels
    assert not torch.allclose(weights[1], weights[3])
    assert not torch.allclose(weights[0], weights[1])


def test_the_best_approximation_needs_no_more_parts():
    """Principal components are at least as near to the activations; the accuracy says what the difference is worth."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(40, 1, 8, 8, generator=generator), torch.arange(40) % 4
    model = module.network(generator).eval()
    parts, principal = (module.curve_of(model, x, y, principal=flag) for flag in (False, True))
    assert parts.ranks == principal.ranks == (1, 2, 4, 8, 16, 32)
    assert bool((parts.errors >= principal.errors - 1e-12).all())
