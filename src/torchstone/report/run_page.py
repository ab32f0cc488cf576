"""The page of a watched run: one HTML file that opens offline."""

from __future__ import annotations

from markupsafe import Markup

from torchstone.report.html import MOST_BYTES, PLOTTED, asset, policy, templates
from torchstone.report.palette import dark_twins
from torchstone.report.plotly_bundle import plotly_bundle
from torchstone.report.resolution import STEPS, Resolution
from torchstone.report.run import RunPage


def run_to_html(run: RunPage) -> str:
    """One self-contained page: no network, no cookies; every value escaped; at most about 6 MB."""
    page = ""
    for resolution in STEPS:
        page = _page(run, resolution)
        if len(page.encode("utf-8")) <= MOST_BYTES:
            break
    return page


def _page(run: RunPage, resolution: Resolution) -> str:
    theme, script, bundle = asset("theme.js"), asset("page.js"), plotly_bundle()
    details = [detail for chapter in run.chapters for detail in chapter.details]
    readings = run.examination.readings.values() if run.examination else ()
    details += [detail for reading in readings for detail in reading.details]
    return (
        templates()
        .get_template("run.html.j2")
        .render(
            run=run,
            exam=run.examination,
            opened=set(),
            made_by=run.made_by,
            policy=policy(theme, script, bundle.source),
            style=Markup(asset("style.css")),
            theme_script=Markup(theme),
            page_script=Markup(script),
            bundle=Markup(bundle.packed),
            has_plots=any(type(detail).__name__ in PLOTTED for detail in details),
            dark_twins=dark_twins(),
            resolution=resolution,
        )
    )
