"""The command line: parse, call, print. Nothing else."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchstone.errors import SettingError, TorchstoneError

if TYPE_CHECKING:
    from rich.console import Console

    from torchstone.examination import Examination
    from torchstone.specimen import Specimen

app = typer.Typer(
    help="Why does your PyTorch network train, why does it generalise, where does its error come from, what to change?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
atlas = typer.Typer(help="The theory, runnable: claims checked against closed forms.", no_args_is_help=True)
app.add_typer(atlas, name="atlas")


class PlanName(StrEnum):
    """How thorough."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"


class Format(StrEnum):
    """How to write a report."""

    HTML = "html"
    MARKDOWN = "md"
    TEXT = "text"


class ScaleName(StrEnum):
    """How large a claim's experiment is."""

    QUICK = "quick"
    FULL = "full"


EXAMPLES = """
[bold]Examples[/bold]

torchstone examine digits --plan quick

torchstone examine digits --with label_noise=0.05

torchstone examine digits --try init=orthogonal,norm=layer --train 3

torchstone examine my_project.py:specimen --only margins --only hessian_trace

torchstone examine my_package.models:specimen --device cuda --output reports/run-7 --open

torchrun --nproc-per-node 4 -m torchstone examine my_project.py:specimen --device cuda
"""


@app.command(epilog=EXAMPLES)
def examine(
    target: Annotated[
        str, typer.Argument(help="A built-in specimen, file.py:function or package.module:function.")
    ] = "digits",
    plan: Annotated[PlanName, typer.Option(help="How thorough: seconds, a minute, or with retraining.")] = (
        PlanName.STANDARD
    ),
    only: Annotated[list[str], typer.Option(help="Run only this instrument (repeatable).")] = [],  # noqa: B006
    skip: Annotated[list[str], typer.Option(help="Leave this instrument out (repeatable).")] = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report; by default torchstone-reports/TARGET.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str | None, typer.Option(help="Measure on this device, e.g. cuda.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Memory to keep data and shared results in, e.g. 512MiB.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Processor threads; by default 1 for a small network, else PyTorch's own."),
    ] = None,
    options: Annotated[
        list[str], typer.Option("--with", help="Option of the target's function, name=value (repeatable).")
    ] = [],  # noqa: B006
    settings: Annotated[
        list[str], typer.Option("--set", help="Setting of an instrument, id.name=value (repeatable).")
    ] = [],  # noqa: B006
    trying: Annotated[
        str,
        typer.Option(
            "--try", help="Apply a remedy to an untrained copy and compare, e.g. init=orthogonal,norm=layer."
        ),
    ] = "",
    train: Annotated[int, typer.Option(help="With --try: also train both for so many epochs.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again instead of resuming.")] = False,
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Measure a network and write an offline report: what is wrong, with what evidence, and what to change."""
    from rich.console import Console

    from torchstone import examining
    from torchstone.plan import Plan, parse_bytes
    from torchstone.specimens.catalogue import built_in
    from torchstone.specimens.target import parse_options
    from torchstone.specimens.threads import threads as taking

    chosen = Plan.named(plan, parse_bytes(budget) if budget is not None else None)
    what = (chosen, only or None, skip or None)
    changed: dict[str, Any] = {"settings": _settings(settings), "trying": trying, "trying_epochs": train}
    changed |= {"fresh": fresh, "command": _command(sys.argv)}
    examining.check(*what, changed["settings"], trying)  # before anything is trained
    folder = output if output is not None else Path("torchstone-reports") / _folder_name(target)
    notes = Console(stderr=True)
    with taking(threads, target in built_in()) as settle:
        specimen = _specimen(target, parse_options(options), seed, device, notes)
        settle(sum(p.numel() for p in specimen.model.parameters()))
        with _resuming(folder, notes):
            examination = examining.examine(specimen, *what, seed, folder, **changed)
    if specimen.processes.first:
        _show(examination, folder / examining.HTML_NAME, open_report)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="An examination.json, or the folder of a watched run.")],
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.HTML,
    output: Annotated[
        Path | None, typer.Option(help="Where to; HTML goes beside FILE, the others to standard output.")
    ] = None,
) -> None:
    """Write the report of a saved examination, or of a watched run, as HTML, Markdown or text."""
    from torchstone.examination import Examination
    from torchstone.watching import command
    from torchstone.writing import write_atomically

    if command.is_run(file):
        typer.echo(command.write_report(file, form.value, output))
        return
    examination = Examination.load(file)
    makers = {
        Format.HTML: examination.to_html,
        Format.MARKDOWN: examination.to_markdown,
        Format.TEXT: examination.to_text,
    }
    text = makers[form]()
    place = file.with_name("report.html") if output is None and form is Format.HTML else output
    if place is None:
        typer.echo(text)
    else:
        write_atomically(place, text)
        typer.echo(f"Wrote {place}")


@app.command(epilog="[bold]Example[/bold]: torchstone watch runs/one --serve")
def watch(
    run: Annotated[Path, typer.Argument(help="The folder given to torchstone.watch().")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on as the run does.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve a live page to this machine.")] = False,
    host: Annotated[str, typer.Option(help="A loopback address for the page.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port of the page; 0 takes any that is free.", min=0, max=65535)
    ] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a run that torchstone.watch() watches: its numbers and what goes wrong, here or on a live page."""
    from torchstone.watching import command

    command.check_place(run, waits=follow or serve)
    if serve:
        command.serve(run, host, port, opened=typer.launch if open_page else None)
    else:
        command.show(run, follow=follow)


@app.command()
def instruments(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the instruments: what each asks, what it costs and needs."""
    from torchstone.instruments.catalogue import catalogue
    from torchstone.serialise import to_plain

    metas = [kind.META for kind in catalogue().values()]
    if as_json:
        typer.echo(json.dumps([to_plain(meta) for meta in metas], indent=1))
        return
    rows = [(meta.id, meta.question.value, meta.cost.name.lower(), meta.asks) for meta in metas]
    _print_table(("instrument", "question", "cost", "asks"), rows)


@app.command()
def specimens() -> None:
    """List the built-in specimens."""
    from torchstone.specimens.catalogue import built_in

    _print_table(("specimen", "what it is"), [(one.name, one.about) for one in built_in().values()])


@atlas.command("list")
def list_claims() -> None:
    """List the claims of the atlas."""
    from torchstone.atlas.catalogue import claims

    rows = [(claim.id, claim.theme, claim.statement) for claim in claims().values()]
    _print_table(("claim", "theme", "statement"), rows)


@atlas.command("run", epilog="[bold]Example[/bold]: torchstone atlas run double_descent --scale full")
def run_claims(
    ids: Annotated[list[str] | None, typer.Argument(help="Claims to run; all by default.")] = None,
    scale: Annotated[ScaleName, typer.Option(help="Seconds or minutes.")] = ScaleName.QUICK,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Run claims and compare what is measured with what theory expects; exit code 1 when one is refuted."""
    from rich.console import Console

    from torchstone.atlas.catalogue import claims
    from torchstone.atlas.claim import Scale
    from torchstone.atlas.run import run
    from torchstone.atlas.words import show
    from torchstone.serialise import to_plain

    results = []
    for identifier in ids or list(claims()):
        result = run(identifier, Scale(scale.value), seed)
        results.append(result)
        if not as_json:
            Console().print(show(result))
    if as_json:
        typer.echo(json.dumps([to_plain(result) for result in results], indent=1, allow_nan=False))
    if not all(result.evidence.holds for result in results):
        raise typer.Exit(1)


@atlas.command("index")
def theory_index(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print the theory index: what is done, where it lives, and the coverage of each theme."""
    from rich.console import Console

    from torchstone.atlas.index import entries, to_json
    from torchstone.atlas.words import show_index

    if as_json:
        typer.echo(to_json())
    else:
        Console().print(show_index(entries()))


@app.command()
def version() -> None:
    """Print the version."""
    from torchstone._version import __version__

    typer.echo(__version__)


def _specimen(
    target: str, options: dict[str, Any], seed: int, device: str | None, notes: Console
) -> Specimen:
    """What TARGET names, on the device, shared with the other processes where torchrun started several."""
    from torchstone.specimen import Processes, join_job
    from torchstone.specimens.catalogue import built_in
    from torchstone.specimens.target import load_target

    job, device = join_job(device)
    processes = Processes(job)
    if target in built_in() and processes.first:
        notes.print(f"[dim]Training {target} on the spot …[/dim]")
    specimen = load_target(target, options, seed)
    specimen = specimen.to(device) if device is not None else specimen
    specimen.processes = processes
    return specimen


def _show(examination: Examination, page: Path, open_report: bool) -> None:
    from rich.console import Console

    from torchstone.report.remedy import show_remedy
    from torchstone.report.terminal import render

    console = Console()
    render(examination, console, report_path=page)
    show_remedy(examination, console)
    if open_report:
        typer.launch(str(page))


@contextlib.contextmanager
def _resuming(folder: Path, notes: Console) -> Iterator[None]:
    """Say after Ctrl-C where what is finished lies."""
    try:
        yield
    except KeyboardInterrupt:
        notes.print(f"\nInterrupted. What was finished is in {folder}; the same command resumes there.")
        raise typer.Exit(130) from None


def _settings(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """`{"hessian_trace": {"probes": 50}}` out of "hessian_trace.probes=50"."""
    from torchstone.specimens.target import parse_options

    changed: dict[str, dict[str, Any]] = {}
    for path, value in parse_options(pairs).items():
        instrument, dot, name = path.partition(".")
        if not dot:
            raise SettingError(
                "--set is written instrument.setting=value", path, "e.g. --set margins.confidence=0.9."
            )
        changed.setdefault(instrument, {})[name] = value
    return changed


def _folder_name(target: str) -> str:
    kept = "".join(character if character.isalnum() or character in "-_." else "-" for character in target)
    return kept.strip("-.") or "specimen"


def _command(arguments: list[str]) -> str:
    return shlex.join(["torchstone", *map(_shown, arguments[1:])])


def _shown(argument: str) -> str:
    """An argument as the report may show it: without the value of a setting that holds secrets."""
    path, equals, _ = argument.removeprefix("--set=").partition("=")
    identifier, _, name = path.partition(".")
    if not equals or not name:
        return argument
    from torchstone.instruments.catalogue import catalogue
    from torchstone.instruments.measurement import secrets

    known = catalogue()
    secret = identifier in known and name in secrets(known[identifier])
    return f"{argument[: argument.index(path)]}{path}=…" if secret else argument


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main() -> None:
    """Run the command line; a user's mistake ends in one paragraph and exit code 2."""
    try:
        app()
    except TorchstoneError as error:
        from rich.console import Console

        Console(stderr=True).print(f"[bold red]error:[/bold red] {_escaped(str(error))}", soft_wrap=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
