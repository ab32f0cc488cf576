"""What a claim must say of itself."""

from dataclasses import replace

import pytest

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.errors import SettingError


def evidence(scale: Scale, generator) -> Evidence:
    return Evidence.at_most("x", 0.0, 1.0)


CLAIM = Claim(
    id="some_claim",
    theme=Theme.RISK,
    title="Some claim",
    statement="It is so.",
    source="Someone 2020, theorem 1",
    assumptions=("Always.",),
    refuted_by="it not being so",
    run=evidence,
    counterexample=evidence,
    rows=("R16",),
)


@pytest.mark.parametrize("field", ["title", "statement", "source", "refuted_by"])
def test_refuses_an_empty_sentence(field):
    with pytest.raises(SettingError, match=f"'some_claim' needs its {field}; got ' '. Write the text"):
        replace(CLAIM, **{field: " "})


@pytest.mark.parametrize("field", ["assumptions", "rows"])
@pytest.mark.parametrize("value", [(), ("",), ["R16"]])
def test_refuses_empty_tuples_and_lists(field, value):
    with pytest.raises(SettingError, match=f"needs its {field}"):
        replace(CLAIM, **{field: value})


def test_refuses_an_id_that_is_no_file_name():
    with pytest.raises(SettingError, match=r"id is the name of its file; got 'some-claim'. Rename it"):
        replace(CLAIM, id="some-claim")


def test_refuses_a_topic_that_does_not_exist():
    with pytest.raises(SettingError, match=r"got 'R99'. Correct the id"):
        replace(CLAIM, rows=("R16", "R99"))
