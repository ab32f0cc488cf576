"""Themes and their topics."""

import pytest

from torchstone.atlas import Theme
from torchstone.errors import SettingError

TOTALS = [22, 21, 20, 35, 15, 21, 9, 25, 14, 15, 8, 32, 3, 8, 5, 13, 12]


def test_totals():
    assert [theme.total for theme in Theme] == TOTALS
    assert sum(TOTALS) == 278


@pytest.mark.parametrize(
    ("topic", "theme"),
    [
        ("R01", Theme.RISK),
        ("X21", Theme.APPROXIMATION),
        ("O35", Theme.OPTIMISATION),
        ("B26", Theme.ROBUSTNESS),
        ("D01", Theme.ROBUSTNESS),
        ("D06", Theme.ROBUSTNESS),
        ("D07", Theme.SHIFT),
        ("D09", Theme.SHIFT),
        ("Z12", Theme.MISC),
    ],
)
def test_theme_of_a_topic(topic, theme):
    assert Theme.of(topic) is theme


@pytest.mark.parametrize("topic", ["", "R", "R1", "R00", "R23", "D10", "E08", "r16", "R16 ", "R1６"])
def test_refuses_ids_of_no_theme(topic):
    with pytest.raises(SettingError, match="a number of two digits, such as R16"):
        Theme.of(topic)


def test_every_topic_belongs_to_one_theme():
    found = 0
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for number in range(100):
            try:
                Theme.of(f"{letter}{number:02d}")
            except SettingError:
                continue
            found += 1
    assert found == 278


def test_every_theme_has_a_heading():
    assert all(theme.heading for theme in Theme)
