"""What every claim must do, as a test suite to inherit.

A claim's test file subclasses `ClaimConformance` with the claim's id, and adds tests of the claim's own numbers:

    class TestDoubleDescent(ClaimConformance):
        id = "double_descent"
"""

from __future__ import annotations

import functools
import json
import math
from typing import ClassVar

import torch

from torchstone.atlas.catalogue import claim
from torchstone.atlas.claim import Claim, Scale
from torchstone.atlas.run import ClaimResult, generator_for, run
from torchstone.details import Curve
from torchstone.serialise import from_plain, to_plain


class ClaimConformance:
    """Tests that hold for every claim at quick scale."""

    id: ClassVar[str]
    seconds: ClassVar[float] = 30.0
    """Ample for "a few seconds on one core" on a busy machine."""

    @property
    def claim(self) -> Claim:
        """The claim under test."""
        return claim(self.id)

    @property
    def result(self) -> ClaimResult:
        """Its quick run with seed 0, made once."""
        return _quick(self.id)

    def measured(self, name: str) -> float:
        """The measured number of the check of that name."""
        found = {check.name: check.measured for check in self.result.evidence.checks}
        assert name in found, f"{self.id} has no check {name!r}; it has {sorted(found)}"
        return found[name]

    def test_every_check_holds(self) -> None:
        """The claim is borne out."""
        wrong = [(check.name, check.measured, check.expected) for check in self.result.evidence.refuted]
        assert not wrong, f"refuted: {wrong}"

    def test_the_counterexample_is_refuted(self) -> None:
        """The same experiment with an assumption broken fails: the claim is able to fail."""
        evidence = self.claim.counterexample(Scale.QUICK, generator_for(self.id, 0))
        assert not evidence.holds, "the counterexample passed every check"

    def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_one_alone(self) -> None:
        """Nothing but scale and generator matters."""
        before = torch.get_rng_state()
        again = run(self.id, Scale.QUICK, 0)
        assert again.evidence == self.result.evidence, "two runs of seed 0 differ"
        assert torch.equal(before, torch.get_rng_state()), "the run drew from the global random numbers"

    def test_survives_json(self) -> None:
        """The result is plain data."""
        text = json.dumps(to_plain(self.result), allow_nan=False)
        assert from_plain(ClaimResult, json.loads(text)) == self.result

    def test_has_figures_that_can_be_drawn(self) -> None:
        """At least one figure, with a caption, and curves of finite points on their axes."""
        figures = self.result.evidence.figures
        assert figures, "no figure"
        assert any(figure.caption for figure in figures), "no figure says how to read it"
        for curve in (figure for figure in figures if isinstance(figure, Curve)):
            for line in curve.lines:
                assert all(map(math.isfinite, (*line.x, *line.y))), f"{curve.title}, {line.name}: not finite"
                assert not curve.x.log or min(line.x) > 0, f"{curve.title}, {line.name}: x <= 0 on a log axis"
                assert not curve.y.log or min(line.y) > 0, f"{curve.title}, {line.name}: y <= 0 on a log axis"

    def test_is_quick(self) -> None:
        """Seconds, not minutes."""
        assert self.result.seconds < self.seconds, f"{self.result.seconds:.1f} s"


@functools.cache
def _quick(identifier: str) -> ClaimResult:
    return run(identifier, Scale.QUICK, 0)
