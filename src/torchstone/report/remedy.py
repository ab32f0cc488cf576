"""A remedy that was tried, on the terminal: the readings before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchstone.details import Table
from torchstone.examination import Examination
from torchstone.reading import Level
from torchstone.report.cells import show_cell
from torchstone.report.escaping import one_line
from torchstone.report.marks import MARKS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

REMEDY = "remedy_tried"


def show_remedy(examination: Examination, console: Console) -> None:
    """Print what became of the remedy an examination tried; nothing where it tried none."""
    from rich.table import Table as Drawn
    from rich.text import Text

    reading = examination.readings.get(REMEDY)
    if reading is None:
        return
    console.print()
    console.print(Text(one_line(reading.headline), style="bold"), highlight=False)
    for table in [detail for detail in reading.details if isinstance(detail, Table)][:1]:
        drawn = Drawn(box=None, header_style="bold", pad_edge=False)
        for position, column in enumerate(table.columns):
            drawn.add_column(one_line(column), justify="right" if position in (2, 3) else "left")
        for row in table.rows:
            drawn.add_row(*(_cell(show_cell(cell)) for cell in row))
        console.print(drawn)
    for note in reading.notes:
        console.print(Text(one_line(note), style="dim"), highlight=False)


def _cell(text: str) -> Text:
    from rich.text import Text

    styles = {level.value.replace("_", " "): MARKS[level].style for level in Level}
    return Text(one_line(text), style=styles.get(text, ""))
