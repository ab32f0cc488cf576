"""Run an examination: choose instruments by plan, measure, journal, write the report."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchstone.environment import environment, fingerprint, specimen_card
from torchstone.errors import SettingError
from torchstone.examination import Examination
from torchstone.instruments.catalogue import Instrument, catalogue, make
from torchstone.instruments.measurement import hidden, measure, settings_of
from torchstone.journal import Journal
from torchstone.mending import Attempt, Trial, at_the_start, told
from torchstone.plan import Plan
from torchstone.progress import Progress
from torchstone.reading import CostClass, Meta, Reading
from torchstone.specimen import Specimen, keeping_random_states
from torchstone.workbench import Workbench
from torchstone.writing import make_folder, write_atomically

JSON_NAME, HTML_NAME = "examination.json", "report.html"


def examine(
    specimen: Specimen,
    plan: str | Plan = "standard",
    only: Sequence[str | Instrument] | None = None,
    skip: Sequence[str] | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    *,
    settings: dict[str, dict[str, Any]] | None = None,
    fresh: bool = False,
    progress: bool | None = None,
    command: str = "",
    trying: str = "",
    trying_epochs: int = 0,
) -> Examination:
    """Measure a network and say why it trains, why it generalises, where its error comes from and what to change.

    The model is bit-identical afterwards. With `output`, finished readings are journalled there, so that calling again
    after an interruption goes on where it stopped; the JSON and the HTML report are written at the end.

    Args:
        specimen: The network, its objective and its data.
        plan: "quick", "standard", "deep" or a `Plan`.
        only: Instruments to run instead of the plan's: ids, or instruments with their settings.
        skip: Ids of instruments to leave out.
        seed: Seed of everything random; the same seed gives the same readings on the same machine.
        output: Folder for journal, examination.json and report.html; None writes nothing.
        settings: Settings by instrument id, e.g. `{"hessian_trace": {"probes": 50}}`.
        fresh: Start again even if the folder holds a journal.
        progress: Whether to show progress; by default when standard error is a terminal.
        command: How to run this again, for the report.
        trying: A remedy such as "init=orthogonal,norm=layer", applied to an untrained copy and measured again by `only`,
            or by the instruments that say how an untrained network will train; its reading is `remedy_tried`.
        trying_epochs: Also train both networks for so many epochs, as the recipe says, and compare them then.

    Returns:
        All readings, with what is needed to reproduce them.

    Raises:
        TorchstoneError: The specimen, plan, settings or folder cannot be used; the message says what to do.
        KeyboardInterrupt: Passed on after what is finished has been written.
    """
    _check_arguments(specimen, plan, seed)
    chosen_plan = Plan.named(plan) if isinstance(plan, str) else plan
    only, skip = [only] if isinstance(only, str) else only, [skip] if isinstance(skip, str) else skip
    instruments = choose(chosen_plan, only, skip, settings or {})
    processes = specimen.processes
    folder = Path(output) if output is not None and processes.first else None
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    # Rich draws from Python's generator.
    with keeping_random_states(), Progress(show=progress if processes.first else False) as bar:
        bench = Workbench.on(specimen, chosen_plan, seed)
        # What cannot be applied is refused before minutes of measuring.
        attempt = Attempt(bench, trying, trying_epochs) if trying or trying_epochs else None
        with processes.telling_failure():
            journal = None
            if (
                folder is not None
            ):  # not before the specimen is accepted: what is refused leaves nothing behind
                make_folder(folder)
                journal = Journal(folder, fingerprint(bench.specimen, chosen_plan, seed), fresh=fresh)
        # All processes skip what the first one finds finished.
        earlier = processes.told((journal.readings, journal.seconds) if journal is not None else ({}, 0.0))
        run = _Run(bench, instruments, journal, bar, clock, *earlier)
        try:
            run.measure_all()
            if attempt is not None:
                run.compare(attempt, instruments if only else at_the_start())
        finally:
            examination = Examination(
                specimen=specimen_card(bench.specimen),
                plan=chosen_plan,
                seed=seed,
                started=started.isoformat(timespec="seconds"),
                seconds=round(run.seconds, 3),
                complete=len(run.readings) == len(instruments) + (attempt is not None),
                command=command or _call(specimen, chosen_plan, only, skip, seed, trying),
                environment=environment(bench.specimen.device),
                findings=bench.specimen.findings,
                readings=run.readings,
            )
            if folder is not None and run.readings:
                save(examination, folder)
    return examination


def _check_arguments(specimen: Any, plan: Any, seed: Any) -> None:
    if not isinstance(specimen, Specimen):
        raise SettingError(
            "examine() needs a Specimen", type(specimen).__name__, "Call Specimen(model, ...) first."
        )
    if not isinstance(plan, str | Plan):
        raise SettingError(
            "plan must be a name or a Plan", type(plan).__name__, 'Pass "quick", "standard" or "deep".'
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise SettingError("seed must be a whole number from 0 to 2^32 - 1", repr(seed), "Pass 0.")


def check(
    plan: Plan,
    only: Sequence[str | Instrument] | None,
    skip: Sequence[str] | None,
    settings: dict[str, dict[str, Any]],
    trying: str,
) -> None:
    """Refuse what `examine` would refuse, before a specimen is at hand.

    Raises:
        SettingError: See `choose`.
        RemedyError: A remedy that is none.
    """
    choose(plan, only, skip, settings)
    if trying:
        Trial.parse(trying)


def choose(
    plan: Plan,
    only: Sequence[str | Instrument] | None,
    skip: Sequence[str] | None,
    settings: dict[str, dict[str, Any]],
) -> list[Instrument]:
    """The instruments to run: those named, else all of the plan's cost classes; never those skipped.

    Raises:
        SettingError: An unknown id or setting, or an instrument named twice.
    """
    for identifier in skip or ():
        make(identifier)  # refuses unknown ids
    for identifier, changed in settings.items():
        make(identifier, changed)
    if only is not None:
        made = [make(one, settings.get(one)) if isinstance(one, str) else _made(one) for one in only]
    else:
        ids = [name for name, kind in catalogue().items() if kind.META.cost <= plan.most_expensive]
        made = [make(one, settings.get(one)) for one in ids]
    kept = [instrument for instrument in made if instrument.META.id not in (skip or ())]
    if not kept:
        raise SettingError(
            "At least one instrument must run", "none after only and skip", "Name fewer to skip."
        )
    ids = [instrument.META.id for instrument in kept]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise SettingError("An instrument can run once", f"{twice[0]} twice", "Name it once.")
    return kept


def _made(instrument: Any) -> Instrument:
    if isinstance(instrument, type) or not isinstance(getattr(instrument, "META", None), Meta):
        raise SettingError(
            "only must hold ids, or instruments with their settings",
            repr(instrument),
            "Pass for example Margins().",
        )
    return instrument


def save(examination: Examination, folder: Path) -> None:
    """Write examination.json and report.html, each in one step."""
    write_atomically(folder / JSON_NAME, examination.to_json())
    write_atomically(folder / HTML_NAME, examination.to_html())


@dataclass
class _Run:
    """The measuring loop and what it has finished."""

    bench: Workbench
    instruments: list[Instrument]
    journal: Journal | None
    bar: Progress
    clock: float
    earlier: dict[str, Reading]
    earlier_seconds: float

    def __post_init__(self) -> None:
        self.readings: dict[str, Reading] = {}
        self.done: list[tuple[CostClass, float]] = []

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.clock

    def measure_all(self) -> None:
        for position, instrument in enumerate(self.instruments):
            meta = instrument.META
            left = [one.META.cost for one in self.instruments[position:]]
            self.bar.step(meta.title, self.done, left)
            reading = self._finished_before(instrument)
            if reading is None:
                reading = measure(instrument, self.bench)
                self.done.append((meta.cost, reading.cost.seconds))
                if self.journal is not None:
                    self.journal.add(reading, self.seconds)
            self.readings[meta.id] = reading

    def compare(self, attempt: Attempt, instruments: list[Instrument]) -> None:
        """Measure the network without and with a remedy; quick enough not to be journalled."""
        self.bar.step(f"Trying {attempt.mended.trial}", self.done, [])
        reading = told(attempt.compare(instruments))
        self.readings[reading.id] = reading

    def _finished_before(self, instrument: Instrument) -> Reading | None:
        """A journalled reading of the same instrument, version and settings; errors are tried again.

        So are readings whose settings hold secrets: they are not written down, and whether they are the same is not known.
        """
        found = None if hidden(instrument) else self.earlier.get(instrument.META.id)
        if found is None or found.verdict.level == "error" or found.version != instrument.META.version:
            return None
        return found if replace(found, settings=settings_of(instrument)) == found else None


def _call(
    specimen: Specimen,
    plan: Plan,
    only: Sequence[Any] | None,
    skip: Sequence[str] | None,
    seed: int,
    trying: str,
) -> str:
    names = None if only is None else [one if isinstance(one, str) else one.META.id for one in only]
    arguments = [specimen.name, f"plan={plan.name!r}"]
    arguments += [f"only={names!r}"] if names else []
    arguments += [f"skip={list(skip)!r}"] if skip else []
    arguments += [f"trying={trying!r}"] if trying else []
    return f"torchstone.examine({', '.join(arguments)}, seed={seed})"
