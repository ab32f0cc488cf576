"""How OpenMP's threads wait: set for the command alone, before PyTorch is loaded, and never against the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from torchstone._before_torch import SPINS, spin_briefly

WATCHED_IMPORT = """
import os, sys

class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.argv = [sys.argv[1]]
sys.meta_path.insert(0, Finder())
import torchstone
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/home/me/.venv/bin/torchstone", SPINS),
        ("torchstone.exe", SPINS),
        ("-m", SPINS),
        ("/home/me/train.py", None),
        ("", None),
    ],
)
def test_only_the_command_spins_briefly(program: str, expected: str | None) -> None:
    spin_briefly(program)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_the_user_is_respected(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    spin_briefly("torchstone")
    found = {key: os.environ[key] for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if key in os.environ}
    assert found == {name: value}


@pytest.mark.parametrize(("program", "expected"), [("torchstone", SPINS), ("train.py", "None")])
def test_it_is_set_before_pytorch_is_loaded(program: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_IMPORT, program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected]
