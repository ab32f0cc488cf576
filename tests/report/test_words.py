import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchstone.reading import Level, Uncertainty
from torchstone.report.words import (
    counted,
    covers,
    duration,
    error_bar_of,
    fixed,
    listed,
    measurement,
    number_of,
    plain,
    size,
)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1, "1"),
        (1437, "1,437"),
        (3.0, "3"),
        (0.083333, "0.0833"),
        (0.5, "0.5"),
        (-2.5, "−2.5"),
        (123.456, "123"),
        (99999.9, "100,000"),
        (1234.5, "1,234"),
        (999_999.0, "999,999"),
        (1e6, "1 × 10⁶"),
        (1.2345e9, "1.23 × 10⁹"),
        (9.999e-5, "1 × 10⁻⁴"),
        (-2.5e-7, "−2.5 × 10⁻⁷"),
        (5e-324, "4.94 × 10⁻³²⁴"),
        (1.7976931348623157e308, "1.8 × 10³⁰⁸"),
        (11_689_512, "11,689,512"),
        (10**15, "1 × 10¹⁵"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
        (True, "yes"),
        (None, "none"),
    ],
)
def test_plain_numbers(value, said):
    assert plain(value) == said


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        # Two digits of an error bar that starts with less than 355, else one (Particle Data Group).
        (0.827, 0.827 - 0.119, 0.827 + 0.119, "0.83 ± 0.12"),
        (0.827, 0.827 - 0.367, 0.827 + 0.367, "0.8 ± 0.4"),
        (1.097, 1.090, 1.104, "1.097 ± 0.007"),
        (0.0803, 0.055, 0.1131, "0.080 (0.055 to 0.113)"),
        (12345.0, 12345.0 - 678, 12345.0 + 678, "12,345 ± 678"),
        (0.0, -0.02, 0.02, "0.000 ± 0.020"),
        (-0.5, -0.6, -0.4, "−0.50 ± 0.10"),
        (1.0, 1.0, 1.0, "1 ± 0"),
        (1.23e9, 1.18e9, 1.28e9, "(1.23 ± 0.05) × 10⁹"),
        (2e-7, 1e-7, 4e-7, "2.0 (1.0 to 4.0) × 10⁻⁷"),
        (0.3, 0.1, math.inf, "0.30 (0.10 to ∞)"),
        (0.41, -math.inf, 0.41, "≤ 0.41"),
        (0.41, 0.41, math.inf, "≥ 0.41"),
        (math.nan, 0.1, 0.2, "not a number (0.1 to 0.2)"),
        (0.5, math.nan, math.nan, "0.5 (error bar unknown)"),
        (1.25, 1.25 - 1e-13, 1.25 + 1e-13, "1.250 ± <0.001"),
        (0.155260, 0.155260, 0.155261, "0.1553 ± <0.0001"),  # no more than four digits of anything
        (1e-3, -50.0, 50.0, "0 ± 50"),
    ],
)
def test_measurements_have_the_digits_of_their_error_bar(value, low, high, said):
    assert measurement(value, low, high) == said


def read_back(text):
    """The number that a plain text says."""
    mantissa, _, exponent = text.partition(" × 10")
    digits = exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(f"{mantissa.replace('−', '-').replace(',', '')}e{digits or 0}")


@given(st.floats(-1.7e308, 1.7e308))
def test_plain_says_three_digits_of_any_number(value):
    assert read_back(plain(value)) == pytest.approx(value, rel=5.01e-3, abs=1e-323)


@given(*[st.floats() for _ in range(3)])
def test_no_measurement_is_unsayable(value, low, high):
    said = measurement(value, low, high)
    assert said
    assert not any(sign in said for sign in ("nan", "inf", "e+", "e-", "-"))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_a_symmetric_interval_is_told_within_half_a_unit_of_its_last_digit(value, half):
    said = measurement(value, value - half, value + half)
    if " ± " not in said or "<" in said:
        return
    bracket, _, factor = said.partition(") ")
    scale = read_back(f"1 {factor}") if factor else 1.0
    centre, arm = (part.strip("(") for part in bracket.split(" ± "))
    unit = 10.0 ** -len(arm.partition(".")[2])
    assert read_back(centre) * scale == pytest.approx(value, abs=0.51 * unit * scale)
    assert read_back(arm) * scale == pytest.approx(half, abs=0.51 * unit * scale + 1e-6 * abs(value))


def test_fixed_never_says_minus_zero():
    assert fixed(-1e-9, 3) == "0.000"


def test_units_stay_with_their_number(read):
    assert number_of(read(value=8.25, unit="%")) == "8.25%"
    assert number_of(read(value=8.25, unit="nats")) == "8.25\u00a0nats"
    assert number_of(read(value=8.25, unit="")) == "8.25"
    assert number_of(read(value=None)) == ""


def test_what_the_error_bar_covers(read):
    assert covers(Uncertainty(0, 1, "probes", "normal, 95%")) == "95% interval over probes (normal)."
    assert covers(Uncertainty(0, 1, "seeds", "", 0.999)) == "99.9% interval over seeds."
    assert covers(Uncertainty(0, 1, "residual", "Lanczos", 1.0)) == (
        "Bound that always holds, from the residual (Lanczos)."
    )
    assert error_bar_of(read(value=1.0)) == "Exact: no sampling was involved."
    assert error_bar_of(read(level=Level.INFORMATIVE, value=None)) == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 ms"), (0.0421, "42 ms"), (3.14159, "3.1 s"), (59.7, "1 min"), (83, "1 min 23 s"), (7384, "2 h 3 min"), (7200, "2 h"), (math.nan, "unknown time")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_sizes_counts_and_lists():
    assert size(0) == "0 B"
    assert size(1536) == "1.5 KiB"
    assert size(2**60) == "1.05e+06 TiB"
    assert counted(1, "class", "classes") == "1 class"
    assert counted(0, "class", "classes") == "0 classes"
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
