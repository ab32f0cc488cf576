"""The report as Markdown: for pull requests, model cards and mail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchstone.details import Cell, Detail, Scalars, Table
from torchstone.examination import Examination
from torchstone.reading import Reading, Remedy
from torchstone.report.alternatives import alternative, scalar
from torchstone.report.bars import budget_of
from torchstone.report.cells import is_number, show_cell
from torchstone.report.escaping import code_for_markdown as code
from torchstone.report.escaping import for_markdown as text
from torchstone.report.facts import circumstances, cost_of, facts, setting, started, tally
from torchstone.report.marks import MARKS
from torchstone.report.words import error_bar_of, number_of

_MOST_ROWS = 50


def to_markdown(examination: Examination) -> str:
    """The whole report in GitHub's Markdown; plots are told in words."""
    parts = [*_first_screen(examination), *_to_change(examination), *_findings(examination)]
    for question, readings in examination.by_question().items():
        parts += [f"## {text(question.asks)}", _overview(readings)]
        for reading in readings:
            parts += _reading(reading) if reading.measured else []
    parts += _reproduction(examination)
    return "\n\n".join(part for part in parts if part) + "\n"


def _first_screen(examination: Examination) -> list[str]:
    parts = [
        f"# {text(examination.specimen.name)}",
        f"{text(examination.plan.name.capitalize())} examination of {text(started(examination))}.",
        " · ".join(text(fact) for fact in facts(examination)) + ".",
        text(tally(examination.readings.values())) or "Nothing was measured.",
    ]
    if not examination.complete:
        parts.append("**Interrupted**: these are the readings finished before the examination stopped.")
    reading = examination.readings.get("error_budget")
    budget = budget_of(reading)
    if reading is not None:
        parts += [
            "## Where its error comes from",
            " ".join(filter(None, (text(reading.headline), _bold(reading)))),
        ]
    return [*parts, _scalars(budget)] if budget else parts


def _bold(reading: Reading) -> str:
    number = text(number_of(reading))
    return f"**{number}**" if number else ""


def _to_change(examination: Examination) -> list[str]:
    parts = ["## What to change first"]
    changes = examination.to_change()
    if not changes:
        found = "Nothing stands out: no reading was judged poor or in need of attention."
        return [*parts, found if examination.readings else "No instrument ran, so there is nothing to judge."]
    lines = []
    for place, reading in enumerate(changes, 1):
        mark = MARKS[reading.verdict.level]
        what = ", ".join(filter(None, (f"{mark.sign} {mark.word.lower()}", text(number_of(reading)))))
        lines.append(f"{place}. **{text(reading.title)}** ({what}): {text(reading.headline)}")
        lines += [f"   - {_remedy(remedy)}" for remedy in reading.remedies[:1]]
    return [*parts, "\n".join(lines)]


def _remedy(remedy: Remedy) -> str:
    block = f" ({code(remedy.block)})" if remedy.block else ""
    claim = f" Evidence: {code(remedy.claim)} in the atlas." if remedy.claim else ""
    trial = f" Try it: {code(f'--try {remedy.trial}')}." if remedy.trial else ""
    return f"{text(remedy.action.rstrip(' .'))}{block}.{claim}{trial}"


def _findings(examination: Examination) -> list[str]:
    if not examination.findings:
        return []
    return ["## Noticed before measuring", "\n".join(f"- {text(found)}" for found in examination.findings)]


def _overview(readings: Iterable[Reading]) -> str:
    rows = []
    for reading in readings:
        mark = MARKS[reading.verdict.level]
        said = reading.headline if reading.measured else reading.verdict.reason or reading.headline
        rows.append((f"{mark.sign} {mark.word}", reading.title, number_of(reading), said))
    return _rows(("verdict", "instrument", "number", "in words"), rows)


def _reading(reading: Reading) -> list[str]:
    verdict = reading.verdict
    threshold = "; ".join(filter(None, (verdict.threshold, verdict.source)))
    bar = error_bar_of(reading)
    lines = [
        f"{text(reading.asks)} **{MARKS[verdict.level].word}.** {text(verdict.reason)}".rstrip(),
        f"- Threshold: {text(threshold)}" if threshold else "",
        f"- Error bar: {text(bar)}" if bar else "",
        *(f"- To do: {_remedy(remedy)}" for remedy in reading.remedies),
        *(f"- Note: {text(note)}" for note in reading.notes),
    ]
    provenance = [
        f"- Source: {text(reading.source)}" if reading.source else "",
        f"- Cost: {text(cost_of(reading.cost))}",
    ]
    if reading.settings:
        settings = (f"{name} = {setting(value)}" for name, value in reading.settings.items())
        provenance.append("- Settings: " + ", ".join(code(one) for one in settings))
    return [
        f"### {text(reading.title)}",
        lines[0],
        "\n".join(line for line in lines[1:] if line),
        *(part for detail in reading.details for part in _detail(detail)),
        text(reading.explanation),
        "\n".join(line for line in provenance if line),
    ]


def _detail(detail: Detail) -> list[str]:
    title = f"**{text(detail.title)}**" if detail.title else ""
    head = " ".join(filter(None, (title, text(detail.caption))))
    match detail:
        case Scalars():
            return [head, _scalars(detail)]
        case Table():
            return [head, _table(detail)]
        case _:
            return [head, text(alternative(detail))]


def _scalars(detail: Scalars) -> str:
    if not detail.items:
        return "No numbers."
    return _rows(
        ("part" if detail.stacked else "", "value"), [(i.name, scalar(i)) for i in detail.items], {1}
    )


def _table(detail: Table) -> str:
    if not detail.columns:
        return "No columns."
    shown = detail.rows[:_MOST_ROWS]
    numeric = {j for j in range(len(detail.columns)) if any(is_number(row[j]) for row in shown)}
    rest = len(detail.rows) - len(shown)
    more = f"\n\n{rest} more rows are in the JSON file." if rest else ""
    return _rows(detail.columns, shown, numeric) + more


def _rows(columns: Sequence[str], rows: Iterable[Sequence[Cell]], right: Iterable[int] = ()) -> str:
    aligned = set(right)
    line = lambda cells: "| " + " | ".join(cells) + " |"
    rule = line("---:" if j in aligned else "---" for j in range(len(columns)))
    body = [line(text(show_cell(cell)) for cell in row) for row in rows]
    return "\n".join([line(text(column) for column in columns), rule, *body])


def _reproduction(examination: Examination) -> list[str]:
    command = code(examination.command)
    lines = [f"- {name}: {text(value)}" for name, value in circumstances(examination)]
    return ["## How to get these numbers again", command, "\n".join(lines)]
