"""The file of a run's state: the library reads what is written without a copy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchstone.linalg.checkpoint import Checkpoint


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    settings: Any = {"n": np.int64(3), "tolerance": 0.5, "name": "ü", "exact": True}
    checkpoint = Checkpoint(tmp_path / "run", settings)
    grid = torch.arange(12.0).view(3, 4)
    state = {
        "float64": grid.double() / 7,
        "turned": grid.T / 7,
        "sliced": grid[:, 1::2],
        "bfloat16": grid.bfloat16(),
        "float16": grid.half(),
        "int64": torch.arange(5),
        "uint8": torch.Generator().get_state(),
        "bool": grid > 3,
        "a number": torch.tensor(3.0),
        "nothing": torch.zeros(0, 4),
    }
    checkpoint.save(state)
    found = checkpoint.load()
    assert found is not None
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("save_twice", [False, True])
def test_saving_copies_nothing(save_twice: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchstone.linalg.checkpoint._SHARE", 1e9)
    basis, checkpoint = torch.ones(2**21), Checkpoint(tmp_path / "run", {})
    if save_twice:
        checkpoint.save({"basis": basis})
    tracemalloc.start()
    try:
        checkpoint.save({"basis": basis})
        assert tracemalloc.get_traced_memory()[1] < basis.nbytes / 16
    finally:
        tracemalloc.stop()
    assert (tmp_path / "run").stat().st_size > basis.nbytes
