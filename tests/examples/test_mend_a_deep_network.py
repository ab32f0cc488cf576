"""The documented story holds: 100 layers do not train, are mended by what is proposed, and train."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from torchstone.reading import Level

SCRIPT = Path(__file__).parents[2] / "examples" / "mend_a_deep_network.py"


def test_a_network_of_100_layers_is_diagnosed_mended_and_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("mend_a_deep_network", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    examination, found, before, after = module.main(quick=True)
    reading = examination.readings["gradient_flow"]
    assert reading.verdict.level is Level.POOR
    assert str(found.trial) == reading.remedies[0].trial == "init=orthogonal"
    assert before.losses[-1] == pytest.approx(math.log(10), abs=0.01)
    assert before.train < 0.15
    assert after.losses[-1] < 1.8
    assert after.train > 0.8  # over 0.9 with the ten epochs of the full version
    assert "right on" in capsys.readouterr().out
