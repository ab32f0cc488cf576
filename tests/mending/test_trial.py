"""What to try, read from a few characters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from torchstone import instruments
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


def test_every_remedy_that_says_how_to_try_it_can_be_tried() -> None:
    found = {}
    for path in Path(instruments.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Remedy":
                given = [*call.args[3:4], *(word.value for word in call.keywords if word.arg == "trial")]
                for text in (ast.literal_eval(one) for one in given):
                    found[path.stem] = found.get(path.stem, 0) + 1
                    assert str(Trial.parse(text)) == text
    assert {"gradient_flow", "signal_propagation", "jacobian_spectrum", "initialisation_check"} <= set(found)
