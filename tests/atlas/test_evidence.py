"""Evidence: constructors, tensors, and that one wrong check refutes all."""

import math

import pytest
import torch

from torchstone.atlas import Evidence, Kind
from torchstone.details import Scalar, Scalars
from torchstone.errors import SettingError

RIGHT = Evidence.at_most("right", 1.0, 2.0)
WRONG = Evidence.at_most("wrong", 3.0, 2.0)


def test_one_wrong_check_refutes_the_whole():
    assert RIGHT.holds
    both = Evidence.all_of(RIGHT, WRONG)
    assert not both.holds
    assert [check.name for check in both.refuted] == ["wrong"]
    assert not Evidence.all_of(RIGHT, Evidence.at_least("unknown", math.nan, 0.0)).holds


def test_all_of_keeps_order_and_figures():
    figures = [Scalars(name, (Scalar("a", 1.0),)) for name in "xyz"]
    first = Evidence(RIGHT.checks, (figures[0],))
    joined = Evidence.all_of(first, WRONG, figures=figures[1:])
    assert [check.name for check in joined.checks] == ["right", "wrong"]
    assert list(joined.figures) == figures


def test_evidence_without_checks_is_refused():
    with pytest.raises(SettingError, match=r"at least one check; got none. Compare something measured."):
        Evidence(())
    with pytest.raises(SettingError, match="at least one check"):
        Evidence.all_of()


def test_close_takes_numbers_and_single_tensors():
    [check] = Evidence.close("x", torch.tensor([1.04]), 1.0, relative=0.05).checks
    assert (check.kind, check.tolerance) == (Kind.RELATIVE, 0.05)
    assert check.holds
    assert not Evidence.close("x", 1.04, 1.0, absolute=0.03).holds


def test_a_shown_standard_error_does_not_widen_the_tolerance():
    evidence = Evidence.close("x", 1.2, 1.0, absolute=0.1, standard_error=5.0)
    assert evidence.checks[0].standard_error == 5.0
    assert not evidence.holds


def test_close_compares_tensors_by_the_norm_of_their_difference():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    off = truth + torch.tensor([0.0, 0.05], dtype=torch.float64)
    [check] = Evidence.close("w", off, truth, relative=0.02).checks
    assert check.name == "w: relative distance"
    assert check.measured == pytest.approx(0.01)
    assert check.holds
    assert not Evidence.close("w", off, truth, absolute=0.02).holds
    assert not Evidence.close("w", off * math.nan, truth, relative=0.02).holds


def test_close_to_a_zero_tensor():
    zero = torch.zeros(2)
    assert not Evidence.close("w", torch.ones(2), zero, relative=0.1).holds
    assert Evidence.close("w", zero + 1e-9, zero, absolute=1e-8).holds


@pytest.mark.parametrize("tolerances", [{}, {"relative": 0.1, "absolute": 0.1}])
def test_close_takes_one_tolerance(tolerances):
    with pytest.raises(SettingError, match="takes one of relative= and absolute="):
        Evidence.close("x", 1.0, 1.0, **tolerances)


@pytest.mark.parametrize("measured", [torch.zeros(3), 1.0])
def test_close_refuses_different_shapes(measured):
    with pytest.raises(
        SettingError, match=r"both sides have one shape; got .* and \(2,\). Compare like with like"
    ):
        Evidence.close("x", measured, torch.zeros(2), absolute=0.1)


def test_within_errors_uses_the_error_of_the_mean():
    draws = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    [check] = Evidence.within_errors("mean", draws, 3.0).checks
    assert check.measured == 2.5
    assert check.standard_error == pytest.approx((5 / 3 / 4) ** 0.5)
    assert check.holds
    assert not Evidence.within_errors("mean", draws, 3.0, errors=0.5).holds


def test_within_errors_holds_as_often_as_the_t_distribution_says():
    """Coverage of 3 standard errors with 10 draws: 98.5%."""
    from scipy.stats import t

    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 10, generator=generator, dtype=torch.float64)
    share = sum(Evidence.within_errors("mean", row, 0.0).holds for row in draws) / len(draws)
    expected = 1 - 2 * t.sf(3, 9)
    assert abs(share - expected) < 4 * (expected * (1 - expected) / len(draws)) ** 0.5


@pytest.mark.parametrize("draws", [torch.zeros(1), torch.zeros(0), torch.zeros(2, 2)])
def test_within_errors_needs_two_draws(draws):
    with pytest.raises(SettingError, match="a vector of two draws or more"):
        Evidence.within_errors("x", draws, 0.0)
