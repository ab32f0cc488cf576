"""Which states of a long chain to store when only a few fit: the binomial schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        kind: "store" keeps state `at`; "advance" computes state `to` from the current state `at`; "backward" runs step
            `at` forward once more, with its derivative, and pulls the cotangent from state at + 1 to state `at`;
            "restore" makes the stored state `at` current; "free" forgets it.
        at: A state, 0 to L, or the step from it.
        to: Of "advance".
    """

    kind: Literal["store", "advance", "backward", "restore", "free"]
    at: int
    to: int = 0


def reversible_steps(states: int, repeats: int) -> int:
    """Longest chain that `states` stored states reverse when no step is advanced over more than `repeats` times.

    beta(s, r) = (s + r)! / (s! r!). The input's state counts among the s.

    >>> reversible_steps(3, 3)
    20

    Source: Griewank & Walther 2000, ACM TOMS 26(1), proposition 1.
    """
    return math.comb(states + repeats, states)


def fewest_repeats(steps: int, states: int) -> int:
    """The smallest r with beta(states, r) >= steps."""
    repeats = 0
    while reversible_steps(states, repeats) < steps:
        repeats += 1
    return repeats


def fewest_advances(steps: int, states: int) -> int:
    """Steps that the binomial schedule advances over, all repeats together: r L - beta(s + 1, r - 1).

    No schedule with that many stored states needs fewer.

    Source: Griewank & Walther 2000, proposition 1.
    """
    _require(steps, states)
    repeats = fewest_repeats(steps, states)
    return repeats * steps - (reversible_steps(states + 1, repeats - 1) if repeats else 0)


def binomial_schedule(steps: int, states: int) -> Iterator[Action]:
    """What to do, in order, to differentiate a chain of `steps` with at most `states` stored states.

    Every step is run once more with its derivative ("backward"), and advanced over at most r times, r the least with
    beta(states, r) >= steps. Two thirds of sqrt(L) segments, say, are special cases that store more.

    Args:
        steps: L, at least 1.
        states: Stored states s, the input's included, at least 1.

    Yields:
        Actions; state 0 is current at the beginning.

    Raises:
        SettingError: A number below 1.

    >>> [f"{action.kind} {action.at}" for action in binomial_schedule(2, 1)]
    ['store 0', 'advance 0', 'backward 1', 'restore 0', 'backward 0', 'free 0']
    """
    _require(steps, states)
    yield Action("store", 0)
    yield from _reverse(0, steps, states)
    yield Action("free", 0)


def _reverse(start: int, stop: int, states: int) -> Iterator[Action]:
    """Reverse steps start to stop - 1; the state at `start` is stored, counts among `states`, and is current."""
    while stop - start > 1:
        if states == 1:
            yield Action("advance", start, stop - 1)
            yield Action("backward", stop - 1)
            stop -= 1
        else:
            middle = start + _first_part(stop - start, states)
            yield Action("advance", start, middle)
            yield Action("store", middle)
            yield from _reverse(middle, stop, states - 1)
            yield Action("free", middle)
            stop = middle
        yield Action("restore", start)
    yield Action("backward", start)


def _first_part(steps: int, states: int) -> int:
    """Where to store next: neither part may need more repeats than the whole allows."""
    repeats = fewest_repeats(steps, states)
    # The first part is reversed later, with all the states, and is advanced over once now.
    return max(
        1, min(reversible_steps(states, repeats - 1), steps - reversible_steps(states - 1, repeats - 1))
    )


def _require(steps: int, states: int) -> None:
    for name, value in (("steps", steps), ("states", states)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingError(f"{name} must be a whole number of at least 1", repr(value), "Raise it.")
