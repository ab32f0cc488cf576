"""Traces that are killed and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import FormatError, SettingError
from torchstone.linalg import FunctionMap, TraceEstimate, hutchinson_trace, trace
from torchstone.objectives import Regression
from torchstone.operators import hessian_trace
from torchstone.operators.remainder import Remainder
from torchstone.specimen import Specimen

WAYS: dict[str, tuple[Callable[..., TraceEstimate], dict[str, Any]]] = {
    "probes": (hutchinson_trace, {"probes": 60, "block": 8}),
    "to a tolerance": (hutchinson_trace, {"tolerance": 0.02, "block": 7, "distribution": "gaussian"}),
    "beside a sketch": (trace, {"tolerance": 0.01, "max_products": 199, "block": 6, "max_sketch": 8}),
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


@pytest.fixture(autouse=True)
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchstone.linalg.checkpoint._SHARE", 1e9)


@pytest.fixture
def matrix(with_spectrum: Callable[[Tensor], Tensor]) -> Tensor:
    return with_spectrum(torch.linspace(-1, 2, 200))


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_trace_goes_on_to_the_same_bits(
    way: str, matrix: Tensor, seeded: Any, tmp_path: Path
) -> None:
    (estimate, settings), path = WAYS[way], tmp_path / "trace.safetensors"
    first = Mortal(matrix, 10**6)
    whole = estimate(first.map, generator=seeded(0), **settings)
    spent = 10**6 - first.left
    assert spent == whole.products > 40
    for deadly in (spent - 25, 24):  # far into it; then after a few further ones
        with pytest.raises(Killed):
            estimate(Mortal(matrix, deadly).map, generator=seeded(0), checkpoint=path, **settings)
        assert path.exists()
    rest = Mortal(matrix, 10**6)
    resumed = estimate(rest.map, generator=seeded(0), checkpoint=path, **settings)
    assert torch.equal(resumed.samples, whole.samples)
    assert (resumed.value, resumed.standard_error) == (whole.value, whole.standard_error)
    assert (resumed.products, resumed.converged, resumed.method) == (
        whole.products,
        whole.converged,
        whole.method,
    )
    assert 10**6 - rest.left < spent - 10
    assert not path.exists(), "a finished run leaves no checkpoint"


@pytest.mark.parametrize("way", WAYS)
def test_checkpoints_of_others_are_refused(way: str, matrix: Tensor, seeded: Any, tmp_path: Path) -> None:
    (estimate, settings), path = WAYS[way], tmp_path / "trace.safetensors"
    with pytest.raises(Killed):
        estimate(Mortal(matrix, 45).map, generator=seeded(0), checkpoint=path, **settings)
    with pytest.raises(SettingError, match="must be of this map; got a quadratic form that differs by"):
        estimate(1.001 * matrix, generator=seeded(0), checkpoint=path, **settings)
    with pytest.raises(SettingError, match=r"must be of this run \(block=5\)"):
        estimate(matrix, generator=seeded(0), checkpoint=path, **(settings | {"block": 5}))
    with pytest.raises(SettingError, match=r"must be of this run \(seed="):
        estimate(matrix, generator=seeded(1), checkpoint=path, **settings)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match="must be a whole checkpoint"):
        estimate(matrix, generator=seeded(0), checkpoint=path, **settings)


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
