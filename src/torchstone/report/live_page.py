"""The page of a run that goes on: it asks its own machine for what is new, and nothing else."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from torchstone.report.alternatives import alternative
from torchstone.report.escaping import clean
from torchstone.report.figures import figure
from torchstone.report.html import asset, templates
from torchstone.report.marks import MARKS
from torchstone.report.palette import dark_twins
from torchstone.report.plotly_bundle import hash_source
from torchstone.report.resolution import FULL
from torchstone.report.run import RunPage


def live_html(made_by: str) -> str:
    """The page; `live_state` fills it.

    Args:
        made_by: Version of torchstone.
    """
    theme = asset("theme.js")
    return (
        templates()
        .get_template("live.html.j2")
        .render(
            made_by=made_by,
            policy=live_policy(),
            style=Markup(asset("style.css") + asset("live.css")),
            theme_script=Markup(theme),
            has_plots=False,
            dark_twins=dark_twins(),
            resolution=FULL,
        )
    )


def live_policy() -> str:
    """Scripts and data come from this server only."""
    return (
        f"default-src 'none'; script-src 'self' {hash_source(asset('theme.js'))}; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def live_script() -> str:
    """The page's script."""
    return asset("live.js")


def live_state(run: RunPage, tiles: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Everything on the page as JSON; texts are set as texts by the page's script, never as markup.

    Args:
        run: The run.
        tiles: Names and latest values that stand on top.
    """
    return {
        "name": clean(run.name),
        "kicker": clean(run.kicker),
        "facts": [clean(fact) for fact in run.facts],
        "standing": clean(run.standing),
        "tiles": [[clean(part) for part in tile] for tile in tiles],
        "notices": [
            {
                "level": notice.level.value,
                "word": MARKS[notice.level].word,
                "title": clean(notice.title),
                "when": clean(notice.when),
                "message": clean(notice.message),
                "places": [clean(place) for place in notice.places],
                "remedy": clean(notice.remedy),
            }
            for notice in run.notices
        ],
        "chapters": [
            {
                "id": chapter.id,
                "title": clean(chapter.title),
                "figures": [
                    {
                        "kind": type(detail).__name__.lower(),
                        "title": clean(detail.title),
                        "caption": clean(detail.caption),
                        "told": alternative(detail),
                        "drawn": drawn,
                    }
                    for detail in chapter.details
                    if (drawn := figure(detail)) is not None
                ],
            }
            for chapter in run.chapters
        ],
    }
