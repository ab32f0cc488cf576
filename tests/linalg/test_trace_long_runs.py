"""Traces that are killed and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import FormatError, SettingError
from torchstone.linalg import (
    FunctionMap,
    TraceEstimate,
    exact_trace,
    hutch_plus_plus,
    hutchinson_trace,
    trace,
    xtrace,
)
from torchstone.objectives import Regression
from torchstone.operators import hessian_trace
from torchstone.operators.remainder import Remainder
from torchstone.specimen import Specimen

WAYS: dict[str, tuple[Callable[..., TraceEstimate], dict[str, Any]]] = {
    "probes": (hutchinson_trace, {"probes": 60, "block": 8}),
    "to a tolerance": (hutchinson_trace, {"tolerance": 0.02, "block": 7, "distribution": "gaussian"}),
    "beside a sketch": (trace, {"tolerance": 0.01, "max_products": 199, "block": 6, "max_sketch": 8}),
    "a large sketch": (trace, {"tolerance": 1e-6, "max_products": 199, "block": 6}),
    "exactly after a sketch": (trace, {"tolerance": 1e-9, "block": 6}),
    "xtrace": (xtrace, {"products": 65}),
    "xtrace, exactly": (xtrace, {"products": 201}),
    "hutch++": (hutch_plus_plus, {"products": 95}),
}


class Killed(Exception):
    """Stands for a process that dies in the middle of a product."""


class Mortal:
    """The map of a matrix that dies after so many products; counts them."""

    def __init__(self, matrix: Tensor, products: int) -> None:
        self.left, self.matrix = products, matrix

    def product(self, X: Tensor) -> Tensor:
        self.left -= X.shape[1]
        if self.left < 0:
            raise Killed
        return self.matrix @ X

    @property
    def map(self) -> FunctionMap:
        shape = (self.matrix.shape[0], self.matrix.shape[1])
        return FunctionMap(self.product, shape, self.matrix.dtype, block=True, symmetric=True)


@pytest.fixture
def matrix(with_spectrum: Callable[[Tensor], Tensor]) -> Tensor:
    return with_spectrum(torch.linspace(-1, 2, 200))


def same(one: TraceEstimate, other: TraceEstimate) -> bool:
    """Whether all bits agree."""
    fields = ("value", "standard_error", "probes", "products", "converged", "method")
    return torch.equal(one.samples, other.samples) and all(
        getattr(one, name) == getattr(other, name) for name in fields
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_trace_goes_on_to_the_same_bits(
    way: str, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    (estimate, settings), path = WAYS[way], tmp_path / "trace.run"
    first = Mortal(matrix, 10**6)
    whole = estimate(first.map, generator=seeded(0), checkpoint=path, **settings)
    spent = 10**6 - first.left
    assert spent == whole.products > 40
    assert not path.exists(), "a finished run leaves no checkpoint"
    plain = estimate(matrix, generator=seeded(0), **settings)
    torch.testing.assert_close(plain.samples, whole.samples, rtol=1e-7, atol=1e-7)
    assert plain.value == pytest.approx(whole.value, rel=1e-9)
    kills = (14, spent // 2, spent // 4)  # within a sketch; then further on
    for deadly in kills:
        with pytest.raises(Killed):
            estimate(Mortal(matrix, deadly).map, generator=seeded(0), checkpoint=path, **settings)
        assert path.exists()
    rest = Mortal(matrix, 10**6)
    resumed = estimate(rest.map, generator=seeded(0), checkpoint=path, **settings)
    assert same(resumed, whole)
    block = settings.get("block", 10)
    # Each kill loses less than a block, and each of three runs tells the map by one product.
    assert 10**6 - rest.left <= spent - sum(kills) + 3 * (block - 1) + 3
    assert list(tmp_path.iterdir()) == [], "a finished run leaves nothing"


@pytest.mark.parametrize("way", WAYS)
def test_checkpoints_of_others_are_refused(way: str, matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    (estimate, settings), path = WAYS[way], tmp_path / "trace.run"
    with pytest.raises(Killed):
        estimate(Mortal(matrix, 55).map, generator=seeded(0), checkpoint=path, **settings)
    with pytest.raises(SettingError, match="must be of this map; got a first product that differs by"):
        estimate(1.001 * matrix, generator=seeded(0), checkpoint=path, **settings)
    name, changed = ("block", 5) if "block" in settings else ("products", 94)
    with pytest.raises(SettingError, match=rf"must be of this run \({name}={changed}\); got one of another"):
        estimate(matrix, generator=seeded(0), checkpoint=path, **(settings | {name: changed}))
    with pytest.raises(SettingError, match=r"must be of this run \(seed="):
        estimate(matrix, generator=seeded(1), checkpoint=path, **settings)
    with pytest.raises(SettingError, match=r"must be of this run \(.*routine=exact_trace"):
        exact_trace(matrix, checkpoint=path)
    path.write_bytes(path.read_bytes()[3:])
    with pytest.raises(FormatError, match=r"must be a whole checkpoint; got .* Delete it to start again"):
        estimate(matrix, generator=seeded(0), checkpoint=path, **settings)


def test_a_killed_exact_trace_goes_on(matrix: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "trace.run"
    with pytest.raises(Killed):
        exact_trace(Mortal(matrix, 190).map, block=7, checkpoint=path)
    assert path.stat().st_size < 8 * 200 + 40 * 200, "entries, not products"
    rest = Mortal(matrix, 1 + 11)  # one to tell the map; 27 blocks of 7 are done
    assert exact_trace(rest.map, block=7, checkpoint=path) == exact_trace(matrix, block=7)
    assert rest.left == 0
    assert not path.exists()


def test_a_killed_hessian_trace_goes_on(monkeypatch: pytest.MonkeyPatch, seeded: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2)).double()
    x = torch.randn(12, 4, generator=seeded(0)).double()
    specimen = Specimen(model, Regression(), (x, x[:, :2].sin()), batch_size=5).prepared()
    path = tmp_path / "trace.safetensors"
    settings: dict[str, Any] = {"tolerance": 1e-9, "max_probes": 40}
    whole = hessian_trace(specimen, generator=seeded(1), **settings)
    assert (whole.probes, whole.exact) == (40, False)
    forms, left = Remainder._forms, [4]

    def dying(self: Remainder, X: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return forms(self, X)

    monkeypatch.setattr(Remainder, "_forms", dying)
    with pytest.raises(Killed):
        hessian_trace(specimen, generator=seeded(1), checkpoint=path, **settings)
    left[0] = 5  # one to tell the network, four blocks of five that are left
    resumed = hessian_trace(specimen, generator=seeded(1), checkpoint=path, **settings)
    assert left[0] == 0
    assert resumed.per_parameter == whole.per_parameter
    assert not path.exists()


def test_a_killed_exact_rest_of_a_hessian_trace_goes_on(
    monkeypatch: pytest.MonkeyPatch, seeded: Any, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    x = torch.randn(12, 4, generator=seeded(0)).double()
    specimen = Specimen(model, Regression(), (x, x[:, :2].sin()), batch_size=5).prepared()
    path = tmp_path / "trace.run"
    whole = hessian_trace(specimen, generator=seeded(1))
    assert (whole.probes, whole.exact) == (0, True)
    forms, left = Remainder._forms, [1]

    def dying(self: Remainder, X: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return forms(self, X)

    monkeypatch.setattr(Remainder, "_forms", dying)
    with pytest.raises(Killed):
        hessian_trace(specimen, generator=seeded(1), checkpoint=path)
    left[0] = 2  # one to tell the network, one for the second block of at most 32 entries
    resumed = hessian_trace(specimen, generator=seeded(1), checkpoint=path)
    assert left[0] == 0
    assert resumed.per_parameter == whole.per_parameter
    assert not path.exists()
