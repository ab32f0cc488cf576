"""What `torchstone watch` and `torchstone report` do with a run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torchstone.errors import FormatError, SettingError
from torchstone.examination import Examination
from torchstone.report.run_page import run_to_html
from torchstone.watching.log import LogReader, WatchLog
from torchstone.watching.loggers.json_lines import FILE_NAME
from torchstone.watching.report import name_of, run_page
from torchstone.writing import write_atomically

HTML_NAME = "run.html"
EXAMINATION_NAME = "examination.json"
_EVERY = 0.5  # seconds between looks at the log


def is_run(place: Path) -> bool:
    """Whether there is a run's log at a place."""
    return place.suffix == ".jsonl" or (place / FILE_NAME).exists()


def write_report(place: Path, form: str, output: Path | None) -> str:
    """Write a run's report, with that of an examination in the same folder.

    Args:
        place: The run's folder or its log.
        form: "html" or "text".
        output: Where to; by default HTML goes beside the log.

    Returns:
        What to print.

    Raises:
        FormatError: No log, or a damaged examination.
        SettingError: Another form.
        OutputError: The page cannot be written.
    """
    log = WatchLog.load(place)
    folder = place.parent if place.suffix == ".jsonl" else place
    if form == "html":
        beside = folder / EXAMINATION_NAME
        examination = Examination.load(beside) if beside.exists() else None
        text = run_to_html(run_page(log, name_of(place), examination))
        output = output if output is not None else folder / HTML_NAME
    elif form == "text":
        text = _as_text(log, name_of(place))
    else:
        raise SettingError("The report of a run is html or text", form, "Use --format html.")
    if output is None:
        return text
    write_atomically(output, text)
    return f"Wrote {output}"


def show(place: Path, *, follow: bool = False) -> None:
    """Print a run's summary, and go on as the run does.

    Args:
        place: The run's folder or its log; with `follow` it need not exist yet.
        follow: Until the run ends, or until interrupted.

    Raises:
        FormatError: No log.
    """
    from rich.console import Console

    from torchstone.watching.terminal import has_signs, summary

    console = Console()
    if not follow:
        console.print(summary(WatchLog.load(place), name_of(place), signs=has_signs(console)))
        return
    reader = LogReader(place)
    try:
        if console.is_terminal:
            _redraw(reader, console)
        else:
            _tell(
                reader,
                print_line=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
            )
    except KeyboardInterrupt:
        console.print("Stopped watching; the run goes on.")


def serve(place: Path, host: str, port: int, *, opened: Callable[[str], object] | None = None) -> None:
    """Serve a run's live page until interrupted.

    Args:
        place: The run's folder or its log; it need not exist yet.
        host: A loopback address.
        port: 0 for any that is free.
        opened: Called with the page's address.

    Raises:
        SettingError: The host is not of this machine's loopback.
        OutputError: The port is taken.
    """
    from rich.console import Console

    from torchstone.watching.live import LiveServer

    server = LiveServer(place, host, port)
    console = Console()
    console.print(
        f"Watching {place} at {server.url} (Ctrl-C stops the page, not the run)", markup=False, soft_wrap=True
    )
    if opened is not None:
        opened(server.url)
    server.serve()
    console.print("Stopped.")


def _as_text(log: WatchLog, name: str) -> str:
    import io

    from rich.console import Console

    from torchstone.watching.terminal import summary

    written = io.StringIO()
    console = Console(file=written, width=110, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(summary(log, name))
    return written.getvalue()


def _redraw(reader: LogReader, console: object) -> None:
    """The summary, in place."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from torchstone.watching.terminal import has_signs, summary

    assert isinstance(console, Console)
    name = name_of(reader.path)
    waiting = Text(f"Waiting for {reader.path}", "dim")
    with Live(waiting, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            if reader.read() and reader.log is not None:
                live.update(summary(reader.log, name, signs=has_signs(console)), refresh=True)
            if reader.log is not None and reader.log.summary is not None:
                return
            time.sleep(_EVERY)


def _tell(reader: LogReader, print_line: Callable[[str], object]) -> None:
    """Records and alerts, a line each, for pipes and logs of jobs."""
    from torchstone.watching.terminal import line

    told: WatchLog | None = None
    records = alerts = 0
    while True:
        reader.read()
        log = reader.log
        if log is not None:
            if log is not told:  # another run has begun in the same folder
                told, records, alerts = log, 0, 0
            for index in range(records, len(log.records)):
                print_line(line(log, index))
            for alert in log.alerts[alerts:]:
                print_line(f"ALERT step {alert.step:,}: {alert.message} {alert.remedy}")
            records, alerts = len(log.records), len(log.alerts)
            if log.summary is not None:
                return
        time.sleep(_EVERY)


def check_place(place: Path, *, waits: bool) -> None:
    """Refuse a place that can never hold a run.

    Raises:
        FormatError: A file that is no log, or nothing where something has to be.
    """
    if place.is_file() and place.suffix != ".jsonl":
        raise FormatError(
            "A watched run is a folder, or the .jsonl file in it",
            f"{place}",
            f"Pass its folder or its {FILE_NAME}.",
        )
    if not waits and not place.exists():
        raise FormatError("The folder of a watched run must exist", f"no {place}", "Check the path.")
