"""Results in words, as a terminal shows them."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from torchstone.atlas import Check, Erratum, Evidence, Kind, Scale
from torchstone.atlas.catalogue import claim
from torchstone.atlas.index import parse
from torchstone.atlas.run import ClaimResult
from torchstone.atlas.words import describe, expectation, measured, show, show_index, verdict


def printed(renderable: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def result(*parts: Evidence) -> ClaimResult:
    return ClaimResult("double_descent", Scale.QUICK, 7, Evidence.all_of(*parts), 2.5)


HOLDS = Evidence.close("risk at the [peak]", 1.02, 1.0, relative=0.05, note="from the closed form")
FAILS = Evidence.at_most("gap", 3.0, 2.0)


def test_describe_tells_everything_a_claim_says():
    one = replace(
        claim("double_descent"), errata=(Erratum("E01", "A [bold]wrong[/bold] thing", "the right thing"),)
    )
    text = printed(describe(one), width=4000)
    for sentence in (one.title, one.statement, one.source, one.refuted_by, *one.assumptions):
        assert sentence in text
    assert (
        "Often stated: A [bold]wrong[/bold] thing. Correct: the right thing." in text
    )  # markup is not obeyed


def test_show_tells_numbers_and_outcome():
    text = printed(show(result(HOLDS)))
    assert "risk at the [peak]" in text
    assert "from the closed form" in text
    assert "1.02" in text
    assert "1 ± 5%" in text
    assert "Holds: 1 check, all as expected (quick scale, seed 7, 2.5 s)" in text


def test_a_refuted_claim_names_the_checks():
    both = result(HOLDS, FAILS)
    assert verdict(both) == "Refuted: 1 of 2 checks not as expected: gap"
    text = printed(show(both))
    assert "refuted  gap" in text
    assert "at most 2" in text


def test_show_takes_a_claim_that_is_not_in_the_catalogue():
    other = replace(claim("double_descent"), id="elsewhere", title="From elsewhere")
    assert "From elsewhere" in printed(show(replace(result(HOLDS), claim="elsewhere"), other))


def test_narrow_terminals_get_every_number():
    text = "".join(printed(show(result(HOLDS, FAILS)), width=60).split())
    assert "1±5%" in text
    assert "atmost2" in text


@pytest.mark.parametrize(
    ("kind", "tolerance", "text"),
    [
        (Kind.ABSOLUTE, 0.0, "exactly 0.5"),
        (Kind.ABSOLUTE, 0.001, "0.5 ± 0.001"),
        (Kind.RELATIVE, 0.08, "0.5 ± 8%"),
        (Kind.AT_MOST, 0.0, "at most 0.5"),
        (Kind.AT_LEAST, 0.0, "at least 0.5"),
        (Kind.STANDARD_ERRORS, 3.0, "0.5 ± 3 s.e."),
    ],
)
def test_expectations(kind, tolerance, text):
    check = Check("x", 0.5, 0.5, tolerance, kind, 0.25)
    assert expectation(check) == text
    assert measured(check) == "0.5 (s.e. 0.25)"


def test_not_a_number_is_said_so():
    assert measured(Check("x", float("nan"), 1.0, 0.1, Kind.ABSOLUTE)) == "not a number"


def test_index_shows_coverage_and_topics():
    entry = """
[X06]
title = "Squaring with depth"
objects = ["torchstone.approximation.SquareNetwork"]
claims = ["square_by_depth"]
tests = ["tests/approximation/test_square_network.py"]
page = "docs/atlas/approximation.md"
"""
    text = printed(show_index(parse(entry)))
    assert "1 of 278 topics done (0%)" in text
    assert "Approximation and expressivity" in text
    assert "Squaring with depth" in text
    assert "square_by_depth" in text
