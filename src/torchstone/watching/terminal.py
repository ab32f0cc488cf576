"""A run on one terminal screen: what went wrong, the latest numbers, and how they came about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchstone.report.escaping import one_line, shorten
from torchstone.report.marks import MARKS
from torchstone.report.words import plain
from torchstone.watching.log import WatchLog, latest
from torchstone.watching.report import run_page

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = ".:-=+*#%"
_PLACES = 4  # layers of a notice that are named


def summary(log: WatchLog, name: str, *, signs: bool = True) -> RenderableType:
    """A run on one screen.

    Args:
        log: The run.
        name: Its name.
        signs: Whether the terminal has more than ASCII.
    """
    page = run_page(log, name, points=2)
    lines = [
        Text(one_line(name), "bold"),
        Text(one_line((" · " if signs else " - ").join(page.facts)), "dim"),
    ]
    if page.standing:
        lines.append(Text(page.standing, "dim"))
    lines.append(Text())
    for notice in page.notices:
        mark = MARKS[notice.level]
        head = Text(f"{mark.sign if signs else '!'} ", mark.style)
        head.append(notice.title, "bold").append(f" ({notice.when}): {one_line(notice.message)}", "default")
        lines.append(head)
        if notice.places:
            more = f" and {len(notice.places) - _PLACES} more" if len(notice.places) > _PLACES else ""
            lines.append(Text(f"    in {', '.join(map(one_line, notice.places[:_PLACES]))}{more}"))
        if notice.remedy:
            lines.append(Text(f"  {'→' if signs else '->'} {one_line(notice.remedy)}"))
    if not log.records:
        return Group(*lines)
    if not page.notices:
        lines.append(Text("No alert was raised by what was measured.", "green"))
    return Group(*lines, Text(), _table(log, signs))


def sparkline(values: Sequence[float], width: int = 18, *, log: bool = False, signs: bool = True) -> str:
    """A curve of one character's height; blanks are values that are not finite, or not positive with `log`.

    >>> sparkline([0.0, 1.0, 2.0, 7.0])
    '▁▂▃█'
    >>> sparkline([1.0, 10.0, 100.0, 0.0], log=True)
    '▁▅█ '
    """
    marks = _BARS if signs else _PLAIN_BARS
    seen = [_height(value, log) for value in values]
    size = max(1, math.ceil(len(seen) / width))
    parts = [[v for v in seen[i : i + size] if math.isfinite(v)] for i in range(0, len(seen), size)]
    heights = [math.fsum(part) / len(part) if part else math.nan for part in parts]
    finite = [height for height in heights if math.isfinite(height)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[int((h - low) * scale + 0.5)] if math.isfinite(h) else " " for h in heights)


def line(log: WatchLog, index: int) -> str:
    """One record in a line, for a terminal that cannot redraw."""
    record = log.records[index]
    shown = [f"{name} {plain(value)}" for name, value in record.values.items()]
    return one_line(f"step {record.step:,}: {', '.join(shown)}")


def has_signs(console: Console) -> bool:
    """Whether a terminal can show more than ASCII."""
    return "utf" in (console.encoding or "").lower()


def _height(value: float, log: bool) -> float:
    if log:
        return math.log10(value) if value > 0 and math.isfinite(value) else math.nan
    return value if math.isfinite(value) else math.nan


def _table(log: WatchLog, signs: bool) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("series", "latest", "lowest", "highest"):
        wide = 16 if column == "series" else 9
        table.add_column(column, justify="left" if wide > 9 else "right", no_wrap=True, min_width=wide)
    table.add_column("from first to last", no_wrap=True, min_width=18)
    for name in log.names:
        one = log.described(name)
        values = log.series(name)[1]
        finite = [value for value in values if math.isfinite(value)]
        ends = (plain(min(finite)), plain(max(finite))) if finite else ("–" if signs else "-",) * 2
        curve = sparkline(values, log=one.log, signs=signs)
        table.add_row(Text(shorten(one.title, 40)), plain(latest(values)), *ends, curve)
    return table
