"""One function at many settings, in many processes or machines, each result on disk as soon as it is there."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchstone.errors import FormatError, OutputError, ProcessError, SettingError
from torchstone.training.progress_bar import progress_bar
from torchstone.writing import append_line, write_atomically

Backend = Literal["loky", "threading", "sequential", "dask", "ray"]
BACKENDS = ("loky", "threading", "sequential", "dask", "ray")
Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Piece:
    """One setting of a sweep and what came of it.

    Args:
        settings: The arguments.
        values: What the function returned; empty where it failed.
        seconds: Its time.
        failure: Type and message of its error, or None.
    """

    settings: Mapping[str, Plain]
    values: Mapping[str, Any]
    seconds: float
    failure: str | None = None


def sweep(
    work: Callable[..., Mapping[str, Any]],
    settings: Sequence[Mapping[str, Plain]],
    *,
    journal: str | os.PathLike[str] | None = None,
    backend: Backend = "loky",
    workers: int = -1,
    retry_failures: bool = False,
    progress: str | None = None,
) -> list[Piece]:
    """Call `work(**setting)` for every setting, through joblib, and keep each result.

    For trainings whose networks differ in shape, which `fit_many` cannot stack, and for more machines than one. A piece
    that fails is kept with its error and stops no other. With a journal each finished piece is appended to it at once, so
    that the same call after a kill only computes what is missing. Each worker process computes on one thread.

    Args:
        work: From the settings by name to plain values by name (numbers, text, lists of them). Its randomness must come
            from its settings, a seed among them, so that a piece does not depend on where and when it runs.
        settings: Plain values by name, no two alike.
        journal: A file of JSON lines; belongs to this function alone.
        backend: Of joblib: "loky" (processes), "threading", "sequential"; "dask" and "ray" send the pieces to a cluster,
            to the running client's, or to a local one where none runs.
        workers: Pieces at once; -1 for all cores.
        retry_failures: Compute pieces again that failed in an earlier run.
        progress: Title of a bar with the remaining time, shown on terminals.

    Returns:
        The pieces in the order of the settings.

    Raises:
        SettingError: Settings that are not plain or not distinct, an unknown or missing backend, or a journal of another
            function.
        FormatError: The journal is no journal.
        OutputError: The journal cannot be written.
        ProcessError: A worker process died, for want of memory for example.

    Example:
        >>> [piece.values["square"] for piece in sweep(
        ...     lambda side: {"square": side**2}, [{"side": 2}, {"side": 3}], backend="sequential"
        ... )]
        [4, 9]
    """
    keys = [_key(setting) for setting in settings]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SettingError("The settings of a sweep must differ", f"{twice} twice", "Add a seed to each.")
    if backend not in BACKENDS:
        raise SettingError(f"backend must be one of {', '.join(BACKENDS)}", repr(backend), "Use loky.")
    if not callable(work):
        raise SettingError("work must be a function of a setting's values", repr(work), "Pass a function.")
    if workers == 0 or not hasattr(workers, "__index__"):
        raise SettingError(
            "workers must be a number of workers, or -1 for all cores", repr(workers), "Pass 2."
        )
    kept = _Journal(Path(journal), work) if journal is not None else None
    found = dict(kept.pieces) if kept is not None else {}
    if retry_failures:
        found = {key: piece for key, piece in found.items() if piece.failure is None}
    left = [(key, dict(setting)) for key, setting in zip(keys, settings, strict=True) if key not in found]
    with progress_bar(progress, len(left)) as advance:
        try:
            for key, piece in _computed(work, left, backend, workers):
                found[key] = piece
                if kept is not None:
                    kept.add(key, piece)
                advance()
        except BrokenExecutor as error:
            raise ProcessError(
                "The worker processes of a sweep must live until it ends",
                f"one died ({error}) with {len(keys) - len(found)} pieces left",
                "Look at the memory; fewer workers need less. With a journal the same call goes on.",
            ) from error
    return [found[key] for key in keys]


def _computed(
    work: Callable[..., Any], left: list[tuple[str, dict[str, Plain]]], backend: Backend, workers: int
) -> Iterator[tuple[str, Piece]]:
    """Pieces as they finish."""
    if backend == "sequential" or not left:
        for key, setting in left:
            yield key, _piece(work, setting)
        return
    from joblib import Parallel, delayed, effective_n_jobs

    with _backend(backend):
        tasks = [delayed(_keyed)(work, key, setting) for key, setting in left]
        if backend == "ray":  # hands over lists only: rounds, so that no kill loses more than one of them
            each = max(1, effective_n_jobs(workers))
            for start in range(0, len(tasks), each):
                yield from Parallel(n_jobs=workers)(tasks[start : start + each])  # pyright: ignore[reportReturnType]
            return
        # Dask hands results over in the order of the settings only.
        how = "generator" if backend == "dask" else "generator_unordered"
        yield from Parallel(n_jobs=workers, return_as=how)(tasks)  # pyright: ignore[reportReturnType]


def _backend(backend: Backend) -> AbstractContextManager[Any]:
    from joblib import parallel_config

    missing = SettingError(
        f'backend="{backend}" needs {backend}', "it is not installed", f"pip install torchstone[{backend}]"
    )
    if backend == "dask":
        try:
            from distributed import Client, get_client  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise missing from None
        try:
            get_client()
        except ValueError:
            Client(processes=True, dashboard_address=None, threads_per_worker=1)
        return parallel_config(backend="dask")
    if backend == "ray":
        try:
            from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise missing from None
        register_ray()
        return parallel_config(backend="ray")
    if backend == "loky":
        return parallel_config(backend="loky", inner_max_num_threads=1)
    return parallel_config(backend=backend)


def _keyed(work: Callable[..., Any], key: str, setting: dict[str, Plain]) -> tuple[str, Piece]:
    return key, _piece(work, setting)


def _piece(work: Callable[..., Any], setting: dict[str, Plain]) -> Piece:
    start = time.perf_counter()
    try:
        # As a journal gives them back, so that a sweep in two parts has what a sweep in one has.
        values = json.loads(json.dumps(dict(work(**setting))))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other pieces go on
        return Piece(setting, {}, time.perf_counter() - start, f"{type(error).__name__}: {error}")
    return Piece(setting, values, time.perf_counter() - start)


def _key(setting: Mapping[str, Plain]) -> str:
    """The setting as text, which is its identity."""
    named = isinstance(setting, Mapping)
    values = setting.values() if named else ()
    plain = all(isinstance(value, str | int | float | bool | None) for value in values)
    finite = all(not isinstance(value, float) or math.isfinite(value) for value in values)
    if not named or not plain or not finite:
        raise SettingError(
            "The settings of a sweep must be finite numbers, text, truth values or None, by name",
            str(dict(setting)) if named else repr(setting),
            "Pass names or sizes, and build networks and data inside the function.",
        )
    return json.dumps(dict(setting), sort_keys=True)


class _Journal:
    """Finished pieces in a file; a torn last line (the process died while writing) is dropped."""

    def __init__(self, path: Path, work: Callable[..., Any]) -> None:
        self.path, self.pieces = path, dict[str, Piece]()
        name = f"{getattr(work, '__module__', '')}.{getattr(work, '__qualname__', type(work).__name__)}"
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(
                f"{path} must be a journal of a sweep", str(error), "Name another file."
            ) from None
        whole = [line for line in map(_parsed, lines) if line is not None]
        if whole and whole[0].get("sweep") != name:
            raise SettingError(
                f"The journal {path} must be of {name}",
                f"one of {whole[0].get('sweep', 'something else')}",
                "Name another file, or delete it to start again.",
            )
        if lines and not whole:
            raise FormatError(f"{path} must be a journal of a sweep", "no line of JSON", "Name another file.")
        for line in whole[1:]:
            try:
                piece = Piece(line["settings"], line["values"], line["seconds"], line["failure"])
            except KeyError as error:
                raise FormatError(
                    f"{path} must be a journal of a sweep", f"a line without {error}", "Name another file."
                ) from None
            self.pieces[_key(piece.settings)] = piece
        # Written anew, so that a torn line is gone before anything is appended.
        kept = [{"sweep": name}, *(self._line(piece) for piece in self.pieces.values())]
        if not path.parent.is_dir():
            raise OutputError(f"{path} must lie in a folder", f"no folder {path.parent}", "Make it first.")
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, key: str, piece: Piece) -> None:
        self.pieces[key] = piece
        append_line(self.path, json.dumps(self._line(piece)))

    @staticmethod
    def _line(piece: Piece) -> dict[str, Any]:
        return {
            "settings": dict(piece.settings),
            "values": dict(piece.values),
            "seconds": round(piece.seconds, 3),
            "failure": piece.failure,
        }


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
