"""One cell of a table in words."""

from __future__ import annotations

from torchstone.details import Cell
from torchstone.report.words import plain


def is_number(cell: Cell) -> bool:
    """Whether a cell is set like a number."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def show_cell(cell: Cell) -> str:
    """A cell as text: numbers with four digits, booleans as yes and no.

    >>> show_cell(0.123456), show_cell(True), show_cell(None)
    ('0.1235', 'yes', '–')
    """
    if cell is None:
        return "–"
    return plain(cell, 4) if isinstance(cell, int | float) else cell
