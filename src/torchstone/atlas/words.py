"""Claims, results and the theory index as the command line prints them.

Every function returns something that `rich.console.Console().print` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchstone.atlas.catalogue import claim as claim_named
from torchstone.atlas.check import Check, Kind
from torchstone.atlas.claim import Claim
from torchstone.atlas.index import Entry, coverage
from torchstone.atlas.run import ClaimResult
from torchstone.report.words import counted, duration, fixed, plain

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_RELATIONS = {Kind.AT_MOST: "at most ", Kind.AT_LEAST: "at least "}


def describe(claim: Claim) -> Group:
    """What a claim says, when, where it comes from, and what would refute it."""
    from rich.console import Group
    from rich.text import Text

    parts = [_heading(claim.title, f"{claim.theme.heading} · {claim.id}"), Text(claim.statement)]
    parts.append(
        Text("\n").join([Text("Assumes:", "bold"), *(Text(f"  · {one}") for one in claim.assumptions)])
    )
    parts.append(_labelled("Refuted by", claim.refuted_by))
    parts.append(_labelled("Source", claim.source))
    for slip in claim.errata:
        parts.append(_labelled("Often stated", f"{slip.stated}. Correct: {slip.correct}."))
    return Group(*parts)


def show(result: ClaimResult, claim: Claim | None = None) -> Group:
    """A claim and what its run found: every check with measured and expected number, and the outcome.

    Args:
        result: Of `torchstone.atlas.run.run`.
        claim: The claim that was run; by default the one of that id in the catalogue.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    table = Padding(_checks(result.evidence.checks), (1, 0))
    run = f"{result.scale.value} scale, seed {result.seed}, {duration(result.seconds)}"
    outcome = Text(f"{verdict(result)} ({run})", "bold green" if result.holds else "bold red")
    return Group(describe(claim or claim_named(result.claim)), table, outcome, Text())


def verdict(result: ClaimResult) -> str:
    """The outcome in one line: how many checks, and which ones refute the claim."""
    checks, failed = result.evidence.checks, result.evidence.refuted
    if not failed:
        return f"Holds: {counted(len(checks), 'check')}, all as expected"
    names = "; ".join(check.name for check in failed)
    return f"Refuted: {len(failed)} of {counted(len(checks), 'check')} not as expected: {names}"


def expectation(check: Check) -> str:
    """What a check expects, with its tolerance.

    >>> expectation(Check("risk", 1.02, 1.0, 0.08, Kind.RELATIVE)), expectation(Check("gap", 0, 1e-12, 0, Kind.AT_MOST))
    ('1 ± 8%', 'at most 1 × 10⁻¹²')
    """
    if check.kind in _RELATIONS:
        return _RELATIONS[check.kind] + plain(check.expected, 4)
    if check.kind is Kind.RELATIVE:
        return f"{plain(check.expected, 4)} ± {100 * check.tolerance:.3g}%"
    if check.kind is Kind.STANDARD_ERRORS:
        return f"{plain(check.expected, 4)} ± {check.tolerance:.3g} s.e."
    if check.tolerance == 0:
        return f"exactly {plain(check.expected, 4)}"
    return f"{plain(check.expected, 4)} ± {plain(check.tolerance)}"


def measured(check: Check) -> str:
    """What was measured, with its standard error where it has one.

    >>> measured(Check("risk", 1.0234, 1.0, 3, Kind.STANDARD_ERRORS, 0.01))
    '1.023 (s.e. 0.01)'
    """
    bar = "" if check.standard_error is None else f" (s.e. {plain(check.standard_error)})"
    return plain(check.measured, 4) + bar


def show_index(listed: Sequence[Entry]) -> Group:
    """The theory index: coverage of each theme, then every topic that is done."""
    from rich.console import Group
    from rich.text import Text

    parts = coverage(tuple(listed))
    done, total = sum(part.done for part in parts), sum(part.total for part in parts)
    themes = _table("theme", "done", "of", right=(1, 2))
    for part in parts:
        themes.add_row(part.theme.heading, str(part.done), str(part.total))
    topics = _table("id", "topic", "claims", "page")
    for entry in listed:
        topics.add_row(entry.id, entry.title, ", ".join(entry.claims), entry.page)
    share = f"{done} of {counted(total, 'topic')} done ({fixed(100 * done / total, 0)}%)"
    return Group(themes, Text(f"\n{share}\n", "bold"), topics)


def _checks(checks: Sequence[Check]) -> Table:
    from rich.text import Text

    table = _table("", "check", "measured", "expected", right=(2, 3))
    for check in checks:
        mark = Text("holds", "green") if check.holds else Text("refuted", "bold red")
        name = Text(check.name)
        if check.note:
            name.append(f"\n{check.note}", "dim")
        table.add_row(mark, name, Text(measured(check)), Text(expectation(check)))
    return table


def _table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position in right else "left", no_wrap=position == 0)
    return table


def _heading(title: str, after: str) -> Text:
    from rich.text import Text

    return Text.assemble((title, "bold"), ("  " + after, "dim"))


def _labelled(label: str, text: str) -> Text:
    from rich.text import Text

    return Text.assemble((f"{label}: ", "bold"), text)
