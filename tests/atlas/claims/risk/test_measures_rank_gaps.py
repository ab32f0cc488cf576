"""The pool of 24 networks: a complete table, the gate written out again, and the law of noisy test labels."""

import math

import pytest
import torch
from scipy.stats import binom

from torchstone.atlas.claims.risk import measures_rank_gaps as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.bounds.rank_correlation import granulated_tau, kendall_tau
from torchstone.details import Scatter, Table
from torchstone.workbench.complexity import NAMES


class TestMeasuresRankGaps(ClaimConformance):
    id = "measures_rank_gaps"
    seconds = 60.0  # about 4 on a core of its own

    def test_the_table_of_24_networks_is_complete(self):
        assert math.prod(module.SHAPE) == 24
        assert self.measured("empty cells in the table of 24 networks and 18 measures") == 0
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        assert {row[0] for row in table.rows} == set(NAMES)
        for row in table.rows:
            cells = [float(cell) for cell in row[2:] if cell is not None]
            assert len(cells) == 7
            assert not any(map(math.isnan, cells))
            assert cells[-1] == pytest.approx(sum(cells[3:6]) / 3, abs=1e-12)

    def test_the_distance_orders_the_gaps(self):
        [scatter] = [figure for figure in self.result.evidence.figures if isinstance(figure, Scatter)]
        tau = kendall_tau(torch.tensor(scatter.x), torch.tensor(scatter.y))
        assert len(scatter.x) == 24
        assert tau > 0.5
        assert 0 < self.measured(f"lower limit of tau, {module.DISTANCE}") < tau
        assert self.measured(f"granulated tau, {module.DISTANCE}") > 0.35

    def test_the_margin_and_the_count_of_parameters(self):
        assert self.measured(f"tau, {module.MARGIN}") > 0
        assert self.measured(f"tau along weight decay, {module.MARGIN}") < 0
        assert self.measured(f"|tau|, {module.COUNT}") < 0.3

    def test_both_templates_give_one_order(self):
        assert self.measured("tau of C/n against tau of sqrt(C/n), largest difference") < 1e-12


def test_the_error_on_noisy_labels_is_that_of_flipped_ones():
    """By flipping a million labels."""
    generator, n, noise, error = torch.Generator().manual_seed(0), 1_000_000, 0.3, 0.2
    clean = torch.randint(10, (n,), generator=generator)
    wrong = torch.rand(n, generator=generator) < error
    guesses = torch.where(wrong, (clean + torch.randint(1, 10, (n,), generator=generator)) % 10, clean)
    noisy, _ = module.flip_labels(clean, noise, 10, generator)
    measured = float((guesses != noisy).double().mean())
    assert measured == pytest.approx(module.noisy_risk(error, noise), abs=4 * 0.5 / n**0.5)


def test_the_deviation_of_random_orders():
    """By drawing them."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.rand(*module.SHAPE, generator=generator)
    scores = torch.tensor([granulated_tau(draw(), draw()).score for _ in range(1000)], dtype=torch.float64)
    assert float(scores.std()) == pytest.approx(module.chance_deviation(module.SHAPE), rel=0.08)


@pytest.mark.parametrize("n", [100, 1600])
def test_the_usual_rate_is_the_root_and_1_over_n_that_without_errors(n: int) -> None:
    """Erratum E04 with two classifiers, exactly: largest mean excess risk over all laws of the one that looks better."""
    # Opposite classifiers of risks 1/2 - g and 1/2 + g: the worse one is chosen where the better errs on more than half.
    gaps = torch.linspace(0.02, 5, 1000, dtype=torch.float64).numpy() / n**0.5 / 2
    gaps = gaps[gaps < 0.5]
    wrong = binom.sf(n // 2, n, 0.5 - gaps) + binom.pmf(n // 2, n, 0.5 - gaps) / 2
    assert (2 * gaps * wrong).max() * n**0.5 == pytest.approx(0.17, abs=0.002)
    # One without errors, one of risk g: the worse one is half of the choices where it makes no error in the sample.
    risks = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    assert float((risks * (1 - risks) ** n / 2).max()) * n == pytest.approx(1 / (2 * math.e), rel=0.01)
