import math

import pytest

from torchstone.details import Scalar, Scalars
from torchstone.report.bars import budget_of, stack, whiskers


def scalars(*values):
    return tuple(Scalar(str(i), value) for i, value in enumerate(values))


def drawn(items):
    placed = whiskers(items)
    assert placed is not None
    return placed


def test_parts_lie_side_by_side_and_fill_the_bar():
    first, second, third = stack(scalars(1, 2, 1))
    assert [(s.left, s.width, s.share) for s in (first, second, third)] == [
        (0, 25, 0.25),
        (25, 50, 0.5),
        (75, 25, 0.25),
    ]


def test_negative_parts_lie_left_of_zero():
    segments = stack(scalars(3, -1, 4))
    places = {segment.index: (segment.left, segment.width) for segment in segments}
    assert places == {0: (12.5, 37.5), 1: (0, 12.5), 2: (50, 50)}
    assert sum(segment.share for segment in segments) == pytest.approx(1)


def test_what_cannot_be_drawn_is_left_out():
    assert [s.index for s in stack(scalars(math.nan, 1, math.inf, 0))] == [1]
    assert stack(()) == ()
    assert stack(scalars(0, math.nan)) == ()


def test_huge_parts_do_not_overflow():
    segments = stack(scalars(1e308, 1e308, 1e308))
    assert [s.width for s in segments] == pytest.approx([100 / 3] * 3)


def test_parts_that_cancel_have_no_shares():
    assert all(math.isnan(segment.share) for segment in stack(scalars(1, -1)))


def test_whiskers_share_a_scale_with_zero():
    low, high = drawn((Scalar("a", 2, "", 1, 4), Scalar("b", -1)))
    assert (low.zero, low.dot, low.left, low.width) == pytest.approx((20, 60, 40, 60))
    assert (high.dot, high.width) == (0, 0)


def test_whiskers_clip_infinite_intervals():
    (whisker,) = drawn((Scalar("a", 1, "", -math.inf, math.inf),))
    assert (whisker.left, whisker.width) == (0, 100)


def test_whiskers_of_huge_numbers_of_either_sign():
    low, high = drawn((Scalar("a", -1e308), Scalar("b", 1e308)))
    assert (low.dot, low.zero, high.dot) == pytest.approx((0, 50, 100))


@pytest.mark.parametrize(
    "items", [(), scalars(math.nan), scalars(0, 0), (Scalar("a", 1, "s"), Scalar("b", 1, "m"))]
)
def test_no_common_scale_no_whiskers(items):
    assert whiskers(items) is None


def test_the_budget_is_the_first_stacked_detail(read, kinds):
    plain = Scalars("", scalars(1))
    assert budget_of(read(details=(plain, kinds["curve"], kinds["budget"]))) is kinds["budget"]
    assert budget_of(read(details=(plain,))) is None
    assert budget_of(read(details=(Scalars("", (), stacked=True),))) is None
    assert budget_of(None) is None
