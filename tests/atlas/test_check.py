"""A check holds exactly when its numbers say so, and a NaN never holds."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone.atlas.check import Check, Kind
from torchstone.errors import SettingError
from torchstone.serialise import from_plain, to_plain

anything = st.floats(allow_nan=True, allow_infinity=True)
KINDS = st.sampled_from(Kind)


def make(measured: float, expected: float, tolerance: float, kind: Kind, error: float | None = 1.0) -> Check:
    return Check("x", measured, expected, tolerance, kind, error)


@pytest.mark.parametrize(
    ("kind", "measured", "expected", "tolerance", "error", "holds"),
    [
        (Kind.ABSOLUTE, 1.1, 1.0, 0.125, None, True),
        (Kind.ABSOLUTE, 1.25, 1.0, 0.125, None, False),
        (Kind.ABSOLUTE, 1.125, 1.0, 0.125, None, True),  # the border belongs to it
        (Kind.RELATIVE, -105.0, -100.0, 0.05, None, True),
        (Kind.RELATIVE, -105.1, -100.0, 0.05, None, False),
        (Kind.RELATIVE, 100.0, -100.0, 0.05, None, False),
        (Kind.AT_MOST, 2.0, 2.0, 0.0, None, True),
        (Kind.AT_MOST, 2.1, 2.0, 0.0, None, False),
        (Kind.AT_MOST, -math.inf, 2.0, 0.0, None, True),
        (Kind.AT_LEAST, 2.0, 2.0, 0.0, None, True),
        (Kind.AT_LEAST, 1.9, 2.0, 0.0, None, False),
        (Kind.AT_LEAST, math.inf, 2.0, 0.0, None, True),
        (Kind.STANDARD_ERRORS, 1.2, 1.0, 3.0, 0.1, True),
        (Kind.STANDARD_ERRORS, 1.4, 1.0, 3.0, 0.1, False),
        (Kind.STANDARD_ERRORS, 1.0, 1.0, 3.0, 0.0, True),
        (Kind.STANDARD_ERRORS, 1.1, 1.0, 3.0, 0.0, False),
        (Kind.STANDARD_ERRORS, 1.0, 1.0, 3.0, math.inf, False),  # an unknown error proves nothing
        (Kind.STANDARD_ERRORS, 1.0, 1.0, 3.0, math.nan, False),
    ],
)
def test_what_each_kind_means(kind, measured, expected, tolerance, error, holds):
    assert make(measured, expected, tolerance, kind, error).holds is holds


@given(anything, KINDS)
def test_nan_never_holds(value, kind):
    nonzero = value if value else 1.0
    assert not make(math.nan, nonzero, 1.0, kind).holds
    assert not make(value, math.nan, 1.0, kind).holds
    assert not make(value, nonzero, math.nan, kind).holds or kind in (Kind.AT_MOST, Kind.AT_LEAST)


@given(anything, st.sampled_from([math.inf, -math.inf]), KINDS)
def test_a_bound_that_is_not_finite_never_holds(value, bound, kind):
    assert not make(value, bound, 1.0, kind).holds
    assert not make(value, 1.0, math.inf, kind).holds


def test_holds_cannot_be_claimed():
    refuted = make(2.0, 1.0, 0.1, Kind.ABSOLUTE)
    assert not Check("x", 2.0, 1.0, 0.1, Kind.ABSOLUTE, holds=True).holds
    edited = json.loads(json.dumps(to_plain(refuted))) | {"holds": True}
    assert not from_plain(Check, edited).holds
    assert replace(refuted, measured=1.0).holds


@given(anything, anything, st.floats(0, 10), KINDS)
def test_json_round_trip(measured, expected, tolerance, kind):
    check = make(measured, expected if expected else 1.0, tolerance, kind)
    assert from_plain(Check, json.loads(json.dumps(to_plain(check), allow_nan=False))) == check


def test_refuses_a_negative_tolerance():
    with pytest.raises(SettingError, match=r"x: a tolerance is not negative; got -0.1. Pass its size."):
        make(1.0, 1.0, -0.1, Kind.ABSOLUTE)


def test_refuses_a_relative_tolerance_around_zero():
    with pytest.raises(SettingError, match=r"an expected value other than 0; got 0. Pass an absolute one."):
        make(1.0, 0.0, 0.1, Kind.RELATIVE)


def test_refuses_standard_errors_without_one():
    with pytest.raises(SettingError, match=r"needs one; got None. Pass standard_error."):
        make(1.0, 1.0, 3.0, Kind.STANDARD_ERRORS, None)
