"""Run a claim: the same claim, scale and seed give the same evidence."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import torch

from torchstone.atlas.catalogue import claim
from torchstone.atlas.claim import Scale
from torchstone.atlas.evidence import Evidence
from torchstone.details import number
from torchstone.errors import SettingError


@dataclass(frozen=True)
class ClaimResult:
    """What one run of a claim found; `seconds` is the only field that differs between two runs of a seed."""

    claim: str
    scale: Scale
    seed: int
    evidence: Evidence
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", number(self.seconds))

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return self.evidence.holds


def run(identifier: str, scale: Scale | str = Scale.QUICK, seed: int = 0) -> ClaimResult:
    """Run the claim of that id.

    Args:
        identifier: As `torchstone atlas list` shows it.
        scale: Seconds or minutes.
        seed: Of everything random. Claims draw from streams of their own, and never from the global one.

    Raises:
        SettingError: No such claim (the message suggests close names) or scale.
    """
    if scale not in tuple(Scale):
        raise SettingError(f"A claim's scale is one of {', '.join(Scale)}", repr(scale), "Pass one of them.")
    found, chosen = claim(identifier), Scale(scale)
    start = time.perf_counter()
    evidence = found.run(chosen, generator_for(identifier, seed))
    return ClaimResult(identifier, chosen, seed, evidence, time.perf_counter() - start)


def generator_for(name: str, seed: int) -> torch.Generator:
    """A stream of random numbers that belongs to `name` and `seed`."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
