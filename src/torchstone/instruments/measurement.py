"""Running one instrument: needs first, state protected, cost counted, failures turned into readings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from torchstone.errors import NotApplicableError, TorchstoneError
from torchstone.instruments.catalogue import Instrument
from torchstone.reading import Cost, Reading, plain_settings
from torchstone.serialise import to_plain
from torchstone.workbench import Workbench

_LONGEST_MESSAGE = 500


def measure(instrument: Instrument, bench: Workbench) -> Reading:
    """The reading of an instrument: measured, not applicable with the reason, or an error with the message.

    The model is in the mode to be measured while the instrument runs and restored bit for bit afterwards. Only
    KeyboardInterrupt and the like pass through.
    """
    meta = instrument.META
    with _counting(bench) as cost:
        try:
            missing = next((need for need in meta.needs if bench.lacks(need)), None)
            if missing is not None:
                raise NotApplicableError(f"needs {missing}")
            with bench.specimen.measuring():
                reading = _complete(instrument.measure(bench), instrument)
        except NotApplicableError as answer:
            return _finished(Reading.not_applicable(meta, answer.reason), instrument, bench)
        except TorchstoneError as error:
            reading = Reading.error(meta, str(error))
        except Exception as error:  # noqa: BLE001 - a failing instrument is a result
            reading = Reading.error(meta, _one_line(error))
    return _finished(replace(reading, cost=cost.total), instrument, bench)


def _complete(reading: Any, instrument: Instrument) -> Reading:
    """The reading, after proving that it is one and can be written: a late failure would cost all the others."""
    if not isinstance(reading, Reading):
        raise TypeError(f"measure() must return a Reading; got {type(reading).__name__}")
    if reading.id != instrument.META.id:
        raise ValueError(f"the reading must have the id {instrument.META.id!r}; got {reading.id!r}")
    to_plain(reading)
    return reading


def _one_line(error: Exception) -> str:
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def settings_of(instrument: Instrument) -> dict[str, Any]:
    """An instrument's settings as plain data; of those that hold secrets, only how many."""
    names = fields(instrument)  # pyright: ignore[reportArgumentType]
    found = {field.name: getattr(instrument, field.name) for field in names}
    return plain_settings(found | {name: f"{len(found[name])}, not shown" for name in hidden(instrument)})


def hidden(instrument: Instrument) -> tuple[str, ...]:
    """The settings in use that must not be written down: fields whose `metadata` say "secret"."""
    return tuple(name for name in secrets(type(instrument)) if getattr(instrument, name) is not None)


def secrets(kind: type[Instrument]) -> tuple[str, ...]:
    """The settings of an instrument that may hold what must not be written down."""
    return tuple(
        field.name
        for field in fields(kind)  # pyright: ignore[reportArgumentType]
        if field.metadata.get("secret")
    )


def _finished(reading: Reading, instrument: Instrument, bench: Workbench) -> Reading:
    notes = reading.notes + (bench.sampling_notes if reading.measured else ())
    return replace(reading, settings=settings_of(instrument), seed=bench.seed, notes=notes)


@dataclass
class _Counter:
    total: Cost


@contextmanager
def _counting(bench: Workbench) -> Iterator[_Counter]:
    counter, passes = _Counter(Cost()), bench.specimen.passes
    forward, backward, size = passes.forward, passes.backward, bench.specimen.size("train")
    cuda = bench.specimen.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(bench.specimen.device)
    _reset_peak()
    before, started = _resident_bytes("VmRSS"), time.perf_counter()
    try:
        yield counter
    finally:
        seconds = time.perf_counter() - started
        peak = (
            torch.cuda.max_memory_allocated(bench.specimen.device)
            if cuda
            else _resident_bytes("VmHWM") - before
        )
        counter.total = Cost(
            seconds=round(seconds, 4),
            forward_passes=round((passes.forward - forward) / size, 3),
            backward_passes=round((passes.backward - backward) / size, 3),
            peak_bytes=max(0, int(peak)),
        )


def _reset_peak() -> None:
    with suppress(OSError):  # Linux only; elsewhere the peak stays unknown (0)
        Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes(field: str) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
    return 0
