"""The report on one terminal screen: at most 40 lines of 100 columns."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, OverflowMethod
from rich.text import Text

from torchstone.details import Scalars
from torchstone.examination import Examination
from torchstone.reading import Reading
from torchstone.report.alternatives import scalar
from torchstone.report.bars import budget_of, stack
from torchstone.report.escaping import one_line
from torchstone.report.facts import facts, tally
from torchstone.report.marks import MARKS, ORDER
from torchstone.report.words import duration, number_of

MOST_LINES = 40
_SHORTEST_ACTION = 30  # columns, before the trial of a remedy is left out
_MOST_LEGEND_LINES = 6
_QUESTION = 15  # columns of the questions' names
_FILLS = "█▓▒░▚▞"
_FILL_STYLES = ("blue", "dark_orange", "green", "magenta", "yellow", "bright_black")
# What a terminal without these signs gets instead; applied before anything is aligned.
_PLAIN = {
    "✖": "x", "▲": "!", "✔": "+", "●": "o", "–": "-", "±": "+/-", "−": "-", "×": "x", "…": "...", "→": "->",
    "█": "#", "▓": "=", "▒": "+", "░": ".", "▚": "%", "▞": "/", "·": "-", "∞": "inf", "≤": "<=", "≥": ">=",
    **{sign: f"^{plain}" for sign, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)}, "⁻": "^-",
}  # fmt: skip


def to_text(examination: Examination, width: int = 100) -> str:
    """The summary as plain text."""
    written = io.StringIO()
    console = Console(
        file=written, width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    render(examination, console)
    return written.getvalue()


def render(examination: Examination, console: Console, report_path: str | Path | None = None) -> None:
    """Print what was examined, where its error comes from, what to change first, and a line a reading.

    Narrow terminals lose the ends of lines, never their order; a long list of readings keeps the urgent ones.
    """
    screen = _Screen(console.width, console.encoding)
    head = [*screen.specimen(examination), *screen.budget(examination)]
    foot = screen.footer(examination, report_path)
    changes: list[Text] = []
    room = 0
    for most in (5, 4, 3):
        changes = screen.changes(examination, most)
        room = MOST_LINES - len(head) - len(changes) - len(foot)
        if len(examination.readings) < room:
            break
    for line in [*head, *changes, *screen.table(examination, room), *foot]:
        line.rstrip()
        line.truncate(console.width, overflow=screen.overflow)
        console.print(line, no_wrap=True, crop=True, highlight=False)


class _Screen:
    """Lines for a terminal of one width and encoding."""

    def __init__(self, width: int, encoding: str) -> None:
        self.width = width
        self.encoding = encoding
        self.unicode = self._can_show("✖▲✔●█▓▒░±−…")
        self.overflow: OverflowMethod = "ellipsis" if self.unicode else "crop"

    def _can_show(self, text: str) -> bool:
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def say(self, text: str, style: str = "") -> Text:
        """One line that cannot act on the terminal, in signs that it has."""
        line = one_line(text).replace("\u00a0", " ").replace("\u200b", "")
        if not self.unicode:
            line = "".join(_PLAIN.get(sign, sign) for sign in line).replace("^-^", "^-")
        if not self._can_show(line):
            line = line.encode("ascii", "replace").decode("ascii")
        return Text(line, style=style)

    def cell(self, text: str, width: int, style: str = "") -> Text:
        """One cell of a table, exactly `width` columns wide."""
        cell = self.say(text, style)
        cell.truncate(max(width, 1), overflow=self.overflow, pad=True)
        return cell

    def specimen(self, examination: Examination) -> list[Text]:
        """The name, and the facts on as many lines as they need, but at most two."""
        lines, current = [], ""
        for fact in facts(examination):
            longer = f"{current} · {fact}" if current else fact
            if current and len(longer) > self.width:
                lines.append(current)
                longer = fact
            current = longer
        told = [self.say(line, "dim") for line in [*lines, current][:2]]
        stopped = (
            [self.say("Interrupted: not all readings were finished.", "yellow")]
            if not examination.complete
            else []
        )
        return [self.say(examination.specimen.name, "bold"), *told, *stopped]

    def budget(self, examination: Examination) -> list[Text]:
        """The parts of the error as one bar, and what they are."""
        reading = examination.readings.get("error_budget")
        budget = budget_of(reading)
        if reading is None or budget is None:
            return []
        title = self.say("Where its error comes from", "bold")
        lines = [Text(), title.append("  ").append_text(self.say(number_of(reading)))]
        bar = Text()
        for fill, style, length in _bar(budget, self.width):
            bar.append_text(self.say(fill * length, style))
        return [*lines, bar, *self._legend(budget)] if bar else [*lines, *self._legend(budget)]

    def _legend(self, budget: Scalars) -> list[Text]:
        entries = []
        for i, item in enumerate(budget.items):
            fill, style = _FILLS[i % len(_FILLS)], _FILL_STYLES[i % len(_FILL_STYLES)]
            entries.append(self.say(fill, style) + " " + self.say(f"{item.name} {scalar(item)}"))
        for entry in entries:  # as many a line as fit; one too long for a line of its own is cut when printed
            entry.append("   ")
        lines = [Text()]
        for entry in entries:
            if lines[-1] and lines[-1].cell_len + entry.cell_len > self.width + 3:
                lines.append(Text())
            lines[-1].append_text(entry)
        return lines[:_MOST_LEGEND_LINES]

    def changes(self, examination: Examination, most: int) -> list[Text]:
        """What to change first: two lines each."""
        if not examination.readings:
            return []
        changes = examination.to_change()
        if not changes:
            return [
                Text(),
                self.say("Nothing stands out: no reading was judged poor or in need of attention."),
            ]
        lines = [Text(), self.say("What to change first", "bold")]
        for place, reading in enumerate(changes[:most], 1):
            mark = MARKS[reading.verdict.level]
            title, number = self.say(reading.title, "bold"), self.say(number_of(reading))
            lines.append(
                Text(f"{place} ").append_text(self.say(mark.sign, mark.style)) + " " + title + "  " + number
            )
            if reading.remedies:
                remedy = reading.remedies[0]
                said = self.say(f"→ {remedy.action}")
                attempt = f"  --try {remedy.trial}" if remedy.trial else ""
                if attempt and (room := self.width - 4 - len(attempt)) >= _SHORTEST_ACTION:
                    said.truncate(room, overflow=self.overflow)
                    said.append_text(self.say(attempt, "bold"))
                lines.append(Text("    ") + said)
        return lines

    def table(self, examination: Examination, room: int) -> list[Text]:
        """A line a reading under its question; where there is not enough room, the most urgent ones."""
        readings = [reading for group in examination.by_question().values() for reading in group]
        if not readings:
            return [Text(), self.say("No instrument ran.")]
        shown, left_out = _most_urgent(readings, room - 1)
        numbers = [self.say(number_of(reading)).cell_len for reading in shown]
        number_width = min(max(12, *numbers), self.width // 3) if numbers else 12
        lines, previous = [Text()], None
        for reading in shown:
            question = reading.question.value.capitalize() if reading.question is not previous else ""
            previous = reading.question
            lines.append(self.cell(question, _QUESTION, "dim") + self._row(reading, number_width))
        if left_out:
            more = f"and {len(left_out)} more: {tally(left_out)}"
            lines.append(Text(" " * _QUESTION) + self.say(more, "dim"))
        return lines

    def _row(self, reading: Reading, number_width: int) -> Text:
        mark = MARKS[reading.verdict.level]
        said, verdict = (f"{mark.sign} {mark.word.lower()}", 17) if self.width >= 80 else (mark.sign, 2)
        line = self.cell(said, verdict, mark.style)
        if not reading.measured:
            return line + self.say(f"{reading.title}: {reading.verdict.reason}", "dim")
        title = self.cell(reading.title, max(10, self.width - _QUESTION - verdict - number_width - 2))
        return line + title + "  " + self.say(number_of(reading))

    def footer(self, examination: Examination, report_path: str | Path | None) -> list[Text]:
        """How many readings at which verdict, how long it took, and where the report is."""
        counts = tally(examination.readings.values()) or "no readings"
        lines = [Text(), self.say(f"{counts}; measured in {duration(examination.seconds)}")]
        return lines if report_path is None else [*lines, self.say(f"Report: {report_path}", "bold")]


def _bar(budget: Scalars, width: int) -> Iterator[tuple[str, str, int]]:
    """Fill, style and length of each part; the lengths add up to the width."""
    end, drawn = 0.0, 0
    for segment in sorted(stack(budget.items), key=lambda segment: segment.left):
        end += segment.width
        length = round(end / 100 * width) - drawn
        drawn += length
        index = segment.index % len(_FILLS)
        yield _FILLS[index], _FILL_STYLES[index], length


def _most_urgent(readings: Sequence[Reading], lines: int) -> tuple[list[Reading], list[Reading]]:
    """What fits into that many lines, in its own order, and what is left to be counted on the last of them."""
    if len(readings) <= lines:
        return list(readings), []
    ranked = sorted(range(len(readings)), key=lambda i: (ORDER.index(readings[i].verdict.level), i))
    most = max(1, lines - 1)
    return [readings[i] for i in sorted(ranked[:most])], [readings[i] for i in sorted(ranked[most:])]
