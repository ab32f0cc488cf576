"""Checkpoints in memory and in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchstone.errors import DataError
from torchstone.landscape import read_state


def test_states_are_read_from_memory_and_files(tmp_path: Path) -> None:
    state = {"weight": torch.arange(6.0).view(2, 3)}
    save_file(state, tmp_path / "step.safetensors")
    assert read_state(state) is state
    for path in (tmp_path / "step.safetensors", str(tmp_path / "step.safetensors")):
        assert torch.equal(read_state(path)["weight"], state["weight"])


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"path of a safetensors file; got .*missing"):
        read_state(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a checkpoint at all")
    with pytest.raises(DataError, match=r"bad\.safetensors"):
        read_state(tmp_path / "bad.safetensors")
