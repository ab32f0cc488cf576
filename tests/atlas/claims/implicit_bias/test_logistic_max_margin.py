"""Logistic regression and the largest margin: gates, the known separator, and the expansion in log t."""

import math

import pytest
import torch

from torchstone.atlas.claims.implicit_bias import logistic_max_margin
from torchstone.atlas.conformance import ClaimConformance


class TestLogisticMaxMargin(ClaimConformance):
    id = "logistic_max_margin"

    def test_direction_after_1e5_steps(self):
        assert logistic_max_margin.GATE == 100_000
        cosines = [
            c.measured for c in self.result.evidence.checks if c.name.startswith("cosine of w_t and w*")
        ]
        assert len(cosines) == 2
        assert min(cosines) > 0.99

    def test_margin_gap_times_log_t_is_bounded_on_both_sides(self):
        least = self.measured("least (gamma* - gamma_t) log t over the last three decades")
        greatest = self.measured("greatest (gamma* - gamma_t) log t over the last three decades")
        assert 0.1 < least <= greatest < 1

    def test_norm_over_log_t_is_within_15_percent(self):
        [ratio] = [
            c.measured for c in self.result.evidence.checks if c.name.startswith("|w_t| / log t over |w*|")
        ]
        assert ratio == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_the_separator_is_the_solution_of_the_hard_margin_problem(seed):
    """Karush-Kuhn-Tucker: w* is a positive combination of the examples with margin 1, all others beyond."""
    x, separator = logistic_max_margin.problem(torch.Generator().manual_seed(seed))
    margins = x @ separator
    assert torch.allclose(margins[:2], torch.ones(2, dtype=x.dtype), atol=1e-14)
    assert float(margins[2:].min()) >= 2 - 1e-12
    assert torch.allclose(logistic_max_margin.ALPHA @ x[:2], separator, atol=1e-14)
    assert torch.allclose(logistic_max_margin.support_vector_machine(x), separator, atol=1e-5)


def test_the_norm_follows_the_expansion_with_its_constant():
    """w_t - w* log t tends to r with eta exp(-<x_n, r>) = alpha_n at both support vectors."""
    x, separator = logistic_max_margin.problem(torch.Generator().manual_seed(0))
    rate = 0.1
    times, path = logistic_max_margin.descend(x, (rate,), 10_000, lambda margins: torch.sigmoid(-margins))
    targets = torch.log(rate / logistic_max_margin.ALPHA)
    offset = torch.linalg.solve(x[:2], targets)
    left = (path[-1, 0] - separator * math.log(times[-1]) - offset).norm()
    earlier = times.index(1000)
    before = (path[earlier, 0] - separator * math.log(1000) - offset).norm()
    assert float(left) < 0.005
    assert float(left) < float(before) / 5
