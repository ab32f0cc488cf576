"""The conformance suite: what every instrument must do on every network, written once.

@pytest.mark.parametrize("case", zoo(), ids=lambda case: case.name)
def test_my_instrument(case):
    check_instrument(MyInstrument, case)
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import same_bits
from torchstone.errors import SettingError, TorchstoneError
from torchstone.instruments.catalogue import Instrument
from torchstone.instruments.measurement import measure
from torchstone.plan import Plan
from torchstone.reading import Cost, Level, Reading
from torchstone.serialise import from_plain, to_plain
from torchstone.specimen import Specimen
from torchstone.testing.zoo import Case
from torchstone.workbench import Workbench


def check_instrument(
    kind: type[Instrument], case: Case, *, retrainable: bool = False, twice: bool = True
) -> Reading | None:
    """Measure one instrument on one network of the zoo and assert everything that must hold whatever it measures.

    Unchanged model, data and process, the same bits from the same seed, a reading that survives JSON, a verdict with
    its threshold and source, a reason where there is no number, and no error.

    Args:
        kind: The instrument, built with its defaults.
        case: The network.
        retrainable: Give the specimen a recipe that can train it again.
        twice: Whether to measure again, from the same seed.

    Returns:
        The reading, or None where the specimen is refused, as the case says.

    Raises:
        AssertionError: What does not hold, with the names of instrument and case.
    """
    where = f"{kind.META.id} on {case.name}"
    specimen = case.retrainable() if retrainable else case.specimen()
    before, data = model_state(specimen.model), _data(specimen)
    if case.refused:
        _check_refused(specimen, case)
        assert same_state(before, model_state(specimen.model)), (
            f"{where}: refusing changed the model or the process"
        )
        assert all(map(same_bits, data, _data(specimen, copied=False))), f"{where}: refusing changed the data"
        return None
    with _silent():
        bench = Workbench.on(specimen, "standard")
        reading = measure(kind(), bench)
    assert same_state(before, model_state(specimen.model)), f"{where}: the model or the process was changed"
    assert all(map(same_bits, data, _data(specimen, copied=False))), f"{where}: the data were changed"
    check_reading(reading, where)
    if twice:
        with _silent(), _elsewhere():
            again = measure(kind(), Workbench(bench.specimen, bench.plan, bench.seed))
        assert again.without_cost() == reading.without_cost(), f"{where}: the same seed gave another reading"
    return reading


def check_reading(reading: Reading, where: str) -> None:
    """Assert that a reading is complete and can be written."""
    assert reading.verdict.level is not Level.ERROR, f"{where}: {reading.verdict.reason}"
    assert reading.headline.strip(), f"{where}: no headline"
    if reading.verdict.level is Level.NOT_APPLICABLE:
        assert reading.value is None, f"{where}: a number that does not apply"
        assert reading.verdict.reason.strip(), f"{where}: no reason"
    else:
        assert reading.verdict.threshold, f"{where}: a verdict without its threshold"
        assert reading.verdict.source, f"{where}: a threshold without its source"
        assert reading.explanation, f"{where}: no explanation"
    assert 0 <= reading.verdict.severity <= 1, f"{where}: severity {reading.verdict.severity}"
    bar = reading.uncertainty
    if bar is not None and reading.value is not None and not math.isnan(bar.low):
        assert bar.low <= reading.value <= bar.high, f"{where}: {reading.value} outside its error bar"
    text = json.dumps(to_plain(reading), allow_nan=False)
    assert from_plain(Reading, json.loads(text)) == reading, f"{where}: changed by JSON"
    assert len(text) < 2**20, f"{where}: a reading of {len(text):,} characters"


def check_batching(kind: type[Instrument], case: Case, tolerance: float = 1e-4) -> None:
    """Assert that the batch size does not matter, up to rounding."""
    values = []
    for size in (7, 64):
        specimen = case.specimen()
        specimen.batch_size = size
        for split in specimen.splits.values():
            split.batch_size = size
        with _silent():
            values.append(measure(kind(), Workbench.on(specimen)).value)
    first, second = values
    assert (first is None) == (second is None), f"{kind.META.id} on {case.name}: {values}"
    if first is not None and second is not None and math.isfinite(first):
        assert math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance), f"{kind.META.id}: {values}"


def check_precision(kind: type[Instrument], case: Case, tolerance: float = 1e-3) -> None:
    """Assert that a network in float32 and the same in float64 give the same value and level, up to rounding."""
    readings = []
    for wide in (False, True):
        specimen = case.specimen()
        if wide:
            specimen.model.double()
            specimen = case.around(specimen.model)
        with _silent():
            readings.append(measure(kind(), Workbench.on(specimen)))
    single, double = readings
    where = f"{kind.META.id} on {case.name}: {single.value} in float32, {double.value} in float64"
    assert single.verdict.level == double.verdict.level, f"{where}, {single.verdict} and {double.verdict}"
    assert (single.value is None) == (double.value is None), where
    if single.value is not None and double.value is not None:
        close = math.isclose(single.value, double.value, rel_tol=tolerance, abs_tol=tolerance)
        assert close or (math.isnan(single.value) and math.isnan(double.value)), where


def check_settings(kind: type[Instrument]) -> None:
    """Assert that a numeric setting that is NaN, infinite, negative or text is refused with its name."""
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        default = field.default
        if isinstance(default, bool) or not isinstance(default, int | float | tuple):
            continue
        wrongs: list[Any] = [float("nan"), -1e9, "many", float("inf"), None, True]
        if isinstance(default, tuple):
            wrongs = [*wrongs, (), (float("nan"),), ("many",)]
        for wrong in wrongs:
            made: Any = kind
            message = _refusal(lambda made=made, field=field, wrong=wrong: made(**{field.name: wrong}))
            assert f"{kind.META.id}.{field.name}" in message, (
                f"{field.name} = {wrong!r} gave: {message or 'no error'}"
            )


def _refusal(call: Callable[[], Any]) -> str:
    """The message of the SettingError that a call raises, or an empty string."""
    try:
        call()
    except SettingError as error:
        return str(error)
    return ""


def check_costs_nothing(kind: type[Instrument], case: Case) -> None:
    """Assert that a question whose needs are not met is answered without a single pass."""
    with _silent():
        bench = Workbench.on(case.specimen())
        if any(bench.lacks(need) for need in kind.META.needs):
            reading = measure(kind(), bench)
            assert reading.verdict.level is Level.NOT_APPLICABLE
            assert reading.cost == Cost()


@dataclass(frozen=True)
class ModelState:
    """Everything of a model and the process that a measurement must leave alone."""

    parameters: tuple[tuple[str, Tensor, bool, Tensor | None, Tensor | None], ...]
    buffers: tuple[tuple[str, Tensor], ...]
    modes: tuple[bool, ...]
    modules: tuple[tuple[str, int], ...]
    hooks: tuple[tuple[int, ...], ...]
    process: tuple[Any, ...]
    random: tuple[Any, ...]


def model_state(model: nn.Module) -> ModelState:
    """A copy of the state of a model and of the global random generators."""
    parameters = tuple(
        (
            name,
            parameter.detach().clone(),
            parameter.requires_grad,
            parameter.grad,
            None if parameter.grad is None else parameter.grad.clone(),
        )
        for name, parameter in model.named_parameters(remove_duplicate=False)
    )
    numpy_state: Any = np.random.get_state()
    return ModelState(
        parameters,
        tuple((name, buffer.clone()) for name, buffer in model.named_buffers()),
        tuple(module.training for module in model.modules()),
        tuple((name, id(module)) for name, module in model.named_modules()),
        tuple(_hooks(module) for module in model.modules()),
        (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
        ),
        (torch.get_rng_state(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]),
    )


def same_state(first: ModelState, second: ModelState) -> bool:
    """Whether two states agree bit for bit; gradients must be the very same tensors with the same values."""
    same = lambda a, b: same_bits(a, b) if a is not None and b is not None else a is b
    return (
        len(first.parameters) == len(second.parameters)
        and all(
            a[0] == b[0] and same_bits(a[1], b[1]) and a[2] == b[2] and a[3] is b[3] and same(a[4], b[4])
            for a, b in zip(first.parameters, second.parameters, strict=True)
        )
        and [name for name, _ in first.buffers] == [name for name, _ in second.buffers]
        and all(same_bits(a[1], b[1]) for a, b in zip(first.buffers, second.buffers, strict=True))
        and (first.modes, first.modules, first.hooks) == (second.modes, second.modules, second.hooks)
        and first.process == second.process
        and torch.equal(first.random[0], second.random[0])
        and first.random[1:] == second.random[1:]
    )


def _hooks(module: nn.Module) -> tuple[int, ...]:
    """Identities of a module's hooks, in their order."""
    kinds = [
        getattr(module, f"_{when}_hooks", {})
        for when in ("forward", "forward_pre", "backward", "backward_pre")
    ]
    return tuple(id(hook) for kind in kinds for hook in kind.values())


def _data(specimen: Specimen, *, copied: bool = True) -> list[Tensor]:
    """The tensors that were handed over as data."""
    found = [tensor for split in specimen.splits.values() for tensor in batches.tensors(split.source)]
    return [tensor.clone() for tensor in found] if copied else found


def _check_refused(specimen: Specimen, case: Case) -> None:
    raised = ""
    try:
        with _silent():
            Workbench.on(specimen, Plan.named("standard"))
    except TorchstoneError as error:
        raised = type(error).__name__
    assert raised == case.refused, f"{case.name}: {raised or 'no error'} instead of {case.refused}"


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Another global random state inside: whoever draws from it gives another reading there."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.rand(13)
        random.random()
        np.random.random(13)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Some networks print."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
