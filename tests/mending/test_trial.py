"""What to try, read from a few characters."""

from __future__ import annotations

import pytest

from torchstone.errors import RemedyError
from torchstone.mending import Trial
from torchstone.mending.trial import INITS


def test_texts_are_read_and_written() -> None:
    for text in ("init=orthogonal", "norm=layer", "skip=residual", "init=lsuv,norm=group,skip=residual:0.25"):
        assert str(Trial.parse(text)) == text
    assert Trial.parse(" norm=none , init=critical ") == Trial(init="critical", norm="none")
    assert {str(Trial.parse(f"init={scheme}")) for scheme in INITS} == {f"init={scheme}" for scheme in INITS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "A remedy is written init="),
        ("norm", "A remedy is written init=.*got 'norm'"),
        ("depth=3", "A remedy is written init="),
        ("norm=layers", "norm must be one of layer.*Did you mean layer"),
        ("init=qqqq", "init must be one of lecun.*Pick one"),
        ("init=", "init must be one of"),
        ("skip=dense", "skip must be one of residual"),
        ("skip=residual:0", "scale of residual branches is a positive number; got '0'"),
        ("skip=residual:", "scale of residual branches is a positive number"),
        ("skip=residual:inf", "positive number"),
        ("skip=residual:much", "positive number; got 'much'"),
        ("norm=layer,norm=batch", "Each change can be made once; got norm twice"),
        ("norm=layer,,init=xavier", "A remedy is written"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(RemedyError, match=message):
        Trial.parse(text)
