"""Numbers in words: as many digits as the error bar supports, with a unit, and what the error bar covers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchstone.reading import Reading, Uncertainty

MINUS, TIMES = "\u2212", "\u00d7"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALLEST, LARGEST = 1e-4, 1e6  # outside, numbers are written with a power of ten
MOST_DIGITS = 4  # however narrow an interval is: nobody acts on the fifth, and the JSON has them all
_ATTACHED = ("%", "°")


def exponent_of(value: float, digits: int = 12) -> int:
    """The power of ten of a finite number's first digit, once it is rounded to `digits`; 0 for zero.

    >>> exponent_of(0.05), exponent_of(999.6), exponent_of(999.6, 3)
    (-2, 2, 3)
    """
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def plain(value: float | int | None, digits: int = 3) -> str:
    """A number with at most `digits` significant digits; whole numbers below a million as they are.

    >>> plain(0.083333), plain(50890), plain(-2.5e-7), plain(float("nan"))
    ('0.0833', '50,890', '−2.5 × 10⁻⁷', 'not a number')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else MINUS + "∞"
    if value == int(value) and abs(value) < LARGEST:
        return f"{int(value):,}".replace("-", MINUS)
    if isinstance(value, int) and abs(value) < 10**12:
        return f"{value:,}".replace("-", MINUS)
    exponent = exponent_of(value, digits)
    if SMALLEST <= abs(value) < LARGEST:
        return _without_zeros(fixed(value, max(0, digits - 1 - exponent)))
    first = f"{value:.{digits - 1}e}".partition("e")[0].replace("-", MINUS)
    return f"{_without_zeros(first)} {power(exponent)}"


def _without_zeros(text: str) -> str:
    """Without an error bar, zeros at the end would claim a precision that nobody measured."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float, decimals: int) -> str:
    """A number with that many decimals, thousands separated, and a real minus sign; never "−0"."""
    if not math.isfinite(value):
        return plain(value)
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    return text.replace("-", MINUS) if any(digit in text for digit in "123456789") else text.lstrip("-")


def power(exponent: int) -> str:
    """A power of ten as a factor.

    >>> power(-5)
    '× 10⁻⁵'
    """
    return f"{TIMES} {power_of_ten(exponent)}"


def power_of_ten(exponent: int) -> str:
    """A power of ten.

    >>> power_of_ten(12)
    '10¹²'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def with_unit(text: str, unit: str) -> str:
    r"""A number and its unit, kept on one line.

    >>> with_unit("8.3", "%"), with_unit("2", "nats")
    ('8.3%', '2\xa0nats')
    """
    return f"{text}{gap(unit)}{unit}"


def gap(unit: str) -> str:
    """What stands between a number and its unit: nothing, or a blank that does not break."""
    return "\u00a0" if unit and not unit.startswith(_ATTACHED) else ""


def measurement(value: float, low: float | None = None, high: float | None = None) -> str:
    """A number and its interval, both with the digits that the interval supports.

    The error bar gets two digits where its first three are below 355, else one (Particle Data Group 2024, section
    5.3 of the introduction), and the number as many decimals as the error bar.

    >>> measurement(0.08312, 0.0701, 0.0961), measurement(0.08312, 0.071, 0.105)
    ('0.083 ± 0.013', '0.083 (0.071 to 0.105)')
    >>> measurement(0.41, -math.inf, 0.41)
    '≤ 0.41'
    """
    if low is None or high is None:
        return plain(value)
    if math.isnan(low) and math.isnan(high):
        return f"{plain(value)} (error bar unknown)"
    if not math.isfinite(value):
        return f"{plain(value)} ({plain(low)} to {plain(high)})"
    if value == high and low == -math.inf:
        return f"≤ {plain(value)}"
    if value == low and high == math.inf:
        return f"≥ {plain(value)}"
    arms = [abs(end - value) for end in (low, high) if math.isfinite(end)]
    widest = max(arms, default=0.0)
    if not widest:
        exact = len(arms) == 2
        return f"{plain(value)} ± 0" if exact else f"{plain(value)} ({plain(low)} to {plain(high)})"
    finite = [number for number in (value, low, high) if math.isfinite(number)]
    largest = max(abs(number) for number in finite)
    scale = 0 if SMALLEST <= largest < LARGEST else exponent_of(largest)
    value, low, high, largest, widest = (_scaled(n, scale) for n in (value, low, high, largest, widest))
    decimals = max(0, min(_decimals(widest), MOST_DIGITS - 1 - exponent_of(largest)))
    text = _interval(value, low, high, decimals)
    return text if not scale else f"({text}) {power(scale)}" if " ± " in text else f"{text} {power(scale)}"


def _decimals(widest: float) -> int:
    exponent = exponent_of(widest)
    return 1 - exponent if _scaled(widest, exponent) < 3.55 else -exponent


def _interval(value: float, low: float, high: float, decimals: int) -> str:
    below, above = fixed(value - low, decimals), fixed(high - value, decimals)
    if below == above and math.isfinite(low) and math.isfinite(high):
        small = float(above.replace(",", "").replace(MINUS, "-")) == 0
        return f"{fixed(value, decimals)} ± {'<' + fixed(10.0**-decimals, decimals) if small else above}"
    return f"{fixed(value, decimals)} ({fixed(low, decimals)} to {fixed(high, decimals)})"


def _scaled(value: float, exponent: int) -> float:
    """`value` / 10**exponent, without leaving the range of floats on the way."""
    half = exponent // 2
    return value / 10.0**half / 10.0 ** (exponent - half) if math.isfinite(value) else value


SHARE = "share of "


def unit_of(unit: str) -> str:
    """A unit as it is shown: shares of something as percentages of it.

    >>> unit_of("share of test examples"), unit_of("loss")
    ('% of test examples', 'loss')
    """
    return f"% of {unit.removeprefix(SHARE)}" if unit.startswith(SHARE) else unit


def in_unit(unit: str, value: float, low: float | None = None, high: float | None = None) -> str:
    """A number and its interval in the unit that `unit_of` shows.

    >>> in_unit("share of units", 0.25), in_unit("share of units", 0.02, 0.01, 0.04)
    ('25', '2.0 (1.0 to 4.0)')
    """
    factor = 100 if unit.startswith(SHARE) else 1
    return measurement(value * factor, *(None if end is None else end * factor for end in (low, high)))


def number_of(reading: Reading) -> str:
    """A reading's number with error bar and unit; empty where it has none."""
    if reading.value is None:
        return ""
    return with_unit(value_of(reading), unit_of(reading.unit))


def value_of(reading: Reading) -> str:
    """A reading's number with error bar, without its unit."""
    if reading.value is None:
        return ""
    bar = reading.uncertainty
    ends = (bar.low, bar.high) if bar else (None, None)
    return in_unit(reading.unit, reading.value, *ends)


def error_bar_of(reading: Reading) -> str:
    """What the error bar covers, in words."""
    bar = reading.uncertainty
    if reading.value is None:
        return ""
    return covers(bar) if bar else "Exact: no sampling was involved."


def covers(bar: Uncertainty) -> str:
    """What an interval covers and how it was made.

    >>> covers(Uncertainty(0, 1, "examples", "Clopper-Pearson"))
    '95% interval over examples (Clopper-Pearson).'
    """
    method = bar.method.removesuffix(f", {percent(bar.confidence)}")
    method = f" ({method})" if method else ""
    if bar.confidence >= 1:
        return f"Bound that always holds, from the {bar.covers}{method}."
    return f"{percent(bar.confidence)} interval over {bar.covers}{method}."


def percent(fraction: float) -> str:
    """A fraction as a percentage, without needless digits.

    >>> percent(0.95), percent(0.999)
    ('95%', '99.9%')
    """
    return f"{100 * fraction:.3g}%" if math.isfinite(fraction) else "?%"


def duration(seconds: float) -> str:
    """A time span a person can read.

    >>> duration(0.0421), duration(83), duration(7384)
    ('42 ms', '1 min 23 s', '2 h 3 min')
    """
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 1:
        return f"{max(0, round(1000 * seconds))} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(amount: int) -> str:
    """A number of bytes.

    >>> size(512), size(3 * 2**20)
    ('512 B', '3 MiB')
    """
    value, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}"


def counted(amount: int, singular: str, plural: str = "") -> str:
    """A number of things.

    >>> counted(1, "example"), counted(1437, "example")
    ('1 example', '1,437 examples')
    """
    return f"{plain(amount)} {singular if amount == 1 else plural or singular + 's'}"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence joined as English does.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
