"""The report as one HTML page that opens offline and can be mailed, and the same page for a notebook."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from torchstone.examination import Examination
from torchstone.reading import Reading
from torchstone.report.alternatives import alternative, scalar
from torchstone.report.bars import budget_of, stack, whiskers
from torchstone.report.cells import is_number, show_cell
from torchstone.report.data_table import data_table
from torchstone.report.escaping import clean, for_script
from torchstone.report.facts import circumstances, cost_of, facts, levels_of, setting, started, tally
from torchstone.report.figures import figure
from torchstone.report.marks import MARKS
from torchstone.report.palette import dark_twins
from torchstone.report.picture import data_uri
from torchstone.report.plotly_bundle import hash_source, plotly_bundle
from torchstone.report.resolution import FULL, STEPS, Resolution
from torchstone.report.words import error_bar_of, gap, unit_of, value_of

MOST_BYTES = 6_000_000
"""A page is drawn at lower resolutions until it is no larger."""

_TEMPLATES = Path(__file__).parent / "templates"
_OPENED = 3  # readings to change that start opened
PLOTTED = ("Curve", "Histogram", "Spectrum", "Surface", "Scatter")
"""Kinds of details that are drawn by scripts."""


def to_html(examination: Examination) -> str:
    """One self-contained page: no network, no cookies; every value escaped.

    The page is at most about 6 MB: where there is more to show, plots, tables and images are thinned.
    """
    page = ""
    for resolution in STEPS:
        page = _page(examination, resolution)
        if len(page.encode("utf-8")) <= MOST_BYTES:
            break
    return page


def to_notebook(examination: Examination) -> str:
    """The page in a frame of its own, for `_repr_html_`: neither its styles nor its scripts meet the notebook's."""
    return (
        '<iframe sandbox="allow-scripts" title="torchstone report" loading="lazy" '
        'style="width:100%;height:760px;border:1px solid #8884;border-radius:6px" '
        f'srcdoc="{html.escape(to_html(examination), quote=True)}"></iframe>'
    )


def _page(examination: Examination, resolution: Resolution) -> str:
    theme, script, bundle = asset("theme.js"), asset("page.js"), plotly_bundle()
    readings = examination.readings.values()
    changes = examination.to_change()
    plots = any(type(d).__name__ in PLOTTED for r in readings for d in r.details)
    budget_reading = examination.readings.get("error_budget")
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            exam=examination,
            made_by=examination.environment.torchstone,
            policy=policy(theme, script, bundle.source),
            style=Markup(asset("style.css")),
            theme_script=Markup(theme),
            page_script=Markup(script),
            bundle=Markup(bundle.packed),
            has_plots=plots,
            dark_twins=dark_twins(),
            budget_reading=budget_reading,
            budget=budget_of(budget_reading),
            changes=changes,
            opened={reading.id for reading in changes[:_OPENED]},
            facts=facts(examination),
            started=started(examination),
            circumstances=circumstances(examination),
            resolution=resolution,
            thinned=resolution is not FULL,
        )
    )


def policy(theme: str, script: str, plotly: str) -> str:
    """Nothing may be loaded from anywhere; only these three scripts may run."""
    scripts = f"{hash_source(theme)} {hash_source(script)} {plotly}"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def templates() -> Environment:
    """The pages' templates, with all that they call."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["for_script"] = lambda data: Markup(for_script(data))
    environment.filters["breakable"] = _breakable
    environment.globals.update(
        marks=MARKS, anchor=anchor, tally=tally, levels_of=levels_of, value_of=value_of, gap=gap, unit_of=unit_of,
        error_bar_of=error_bar_of, cost_of=cost_of, setting=setting, scalar=scalar, alternative=alternative,
        stack=stack, whiskers=whiskers, figure=figure, data_table=data_table, data_uri=data_uri,
        is_number=is_number, show_cell=show_cell, kind_of=lambda detail: type(detail).__name__,
        percent_whole=lambda share: f"{100 * share:.0f}%",
    )  # fmt: skip
    return environment


def _finalize(value: Any) -> Any:
    """Every expression in a template passes here: plain text loses what escaping leaves dangerous."""
    return clean(value) if type(value) is str else value


@cache
def asset(name: str) -> str:
    """The text of a style sheet or script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _breakable(path: str) -> Markup:
    """An import path that may be broken over lines after its dots."""
    return Markup(".<wbr>").join(clean(path).split("."))


def anchor(reading: Reading) -> str:
    """The fragment that leads to a reading."""
    return "r-" + re.sub(r"[^A-Za-z0-9_-]", "-", reading.id)
