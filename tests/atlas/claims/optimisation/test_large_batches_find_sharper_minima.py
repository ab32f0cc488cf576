"""Large batches: the gate, what rescaling leaves alone, and the ratio by hand."""

import math
from typing import ClassVar

import pytest
import torch

from torchstone.atlas.claims.optimisation import large_batches_find_sharper_minima as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.data.mnist1d import mnist1d
from torchstone.details import Table
from torchstone.specimens.networks import mlp
from torchstone.testing import dense_hessian


class TestLargeBatchesFindSharperMinima(ClaimConformance):
    id = "large_batches_find_sharper_minima"
    seconds: ClassVar[float] = 90.0

    def test_the_ratio_at_equal_epochs_is_above_1_over_5_seeds(self):
        assert self.measured("lower end of the ratio of largest eigenvalues at equal epochs") > 1

    def test_the_controlled_arm_is_reported_with_its_interval_and_the_invariant_measure_beside_it(self):
        table = next(figure for figure in self.result.evidence.figures if "Ratios" in figure.title)
        assert isinstance(table, Table)
        rows = {(row[0], row[1]): row[2:] for row in table.rows}
        for way in ("B = 256, equal epochs", "B = 256, equal updates"):
            for measure in module.MEASURES[:2]:
                ratio, low, high = rows[way, measure]
                assert low < ratio < high  # pyright: ignore[reportOperatorIssue]


def network() -> torch.nn.Module:
    return mlp([64, 6, 6, 10], generator=torch.Generator().manual_seed(0)).double()


def test_rescaling_keeps_the_function_and_not_the_eigenvalue() -> None:
    data = module.flattened(40)
    model = network()
    other = module.rescaled(model, 8.0)
    x = data.x.double()
    assert torch.equal(model(x), other(x))
    assert module.largest_eigenvalue(other, data) > 5 * module.largest_eigenvalue(model, data)
    assert module.relative_rise(other, data) == pytest.approx(module.relative_rise(model, data), rel=1e-9)


def test_the_largest_eigenvalue_is_that_of_the_dense_hessian() -> None:
    data = module.flattened(40)
    model = network()
    exact = torch.linalg.eigvalsh(dense_hessian(module.specimen(model, data)))[-1]
    assert module.largest_eigenvalue(model, data) == pytest.approx(float(exact), rel=1e-3)


def test_on_mnist1d_too_once_large_batches_are_past_their_beginning() -> None:
    """B = 16 against B = n over five seeds and 100 epochs; after 40 the large batch has hardly started, and nothing is claimed."""
    one = mnist1d()
    data = module.Data(one.train_x[:128].flatten(1), one.train_y[:128], one.test_x.flatten(1), one.test_y)
    small = module.arm("B = 16", data, list(range(5)), 16, 800)
    large = module.arm("B = n", data, list(range(5)), 128, 100)
    assert float(large.measured[module.MEASURES[2]].max()) < 1.5  # guessing: ln 10 = 2.3
    ratio, low, high = module.ratio_of(large, small, module.MEASURES[0])
    assert 1 < low < ratio < high


def test_the_ratio_by_hand() -> None:
    def made(*values: float) -> module.Arm:
        measured = {module.MEASURES[0]: torch.tensor(values, dtype=torch.float64)}
        return module.Arm("", 0, measured, None)  # pyright: ignore[reportArgumentType]

    ratio, low, high = module.ratio_of(made(2.0, 8.0), made(1.0, 1.0), module.MEASURES[0])
    assert ratio == pytest.approx(4.0)
    half = 12.7062047 * math.log(4) / 2  # Student's quantile for two seeds; logs ln 2 and ln 8
    assert (low, high) == (pytest.approx(4 * math.exp(-half)), pytest.approx(4 * math.exp(half)))
