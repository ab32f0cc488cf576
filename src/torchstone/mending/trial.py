"""What to try on a network: a remedy written in a few characters."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Self

from torchstone.errors import RemedyError
from torchstone.init import SCHEMES

INITS = (*SCHEMES, "lsuv", "critical")
NORMS = ("layer", "group", "batch", "none")
SKIPS = ("residual",)
_OPTIONS = {"init": INITS, "norm": NORMS, "skip": SKIPS}


@dataclass(frozen=True)
class Trial:
    """Changes to make to an untrained network; empty ones are not made.

    Args:
        init: Initialisation of all weights: a scheme of `torchstone.init.SCHEMES`, "lsuv" or "critical".
        norm: Normalisation behind every weighted layer but the last, instead of what there is: "layer", "group",
            "batch", or "none" to take normalisation out.
        skip: "residual" to put shortcuts around pairs of layers that keep the shape.
        scale: Factor of the residual branches; None for L^(-1/2) with L blocks.

    >>> Trial.parse("init=orthogonal, skip=residual:0.1")
    Trial(init='orthogonal', norm='', skip='residual', scale=0.1)
    """

    init: str = ""
    norm: str = ""
    skip: str = ""
    scale: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Out of a text such as "init=orthogonal,norm=layer".

        Raises:
            RemedyError: An unknown change or option, one named twice, or none.
        """
        found: dict[str, str] = {}
        for part in text.split(",") if isinstance(text, str) else ():
            name, equals, option = (piece.strip() for piece in part.partition("="))
            if name not in _OPTIONS or not equals:
                raise RemedyError(
                    "A remedy is written init=..., norm=... or skip=..., with commas between",
                    repr(part.strip()),
                    "For example init=orthogonal,norm=layer.",
                )
            if name in found:
                raise RemedyError("Each change can be made once", f"{name} twice", "Name it once.")
            found[name] = option
        if not found:
            raise RemedyError("A remedy names at least one change", repr(text), "For example norm=layer.")
        skip, colon, scale = found.get("skip", "").partition(":")
        for name, option in {**found, **({"skip": skip} if "skip" in found else {})}.items():
            _require_known(name, option)
        return cls(found.get("init", ""), found.get("norm", ""), skip, _scale(scale) if colon else None)

    def __str__(self) -> str:
        skip = self.skip + (f":{self.scale:g}" if self.skip and self.scale is not None else "")
        parts = {"init": self.init, "norm": self.norm, "skip": skip}
        return ",".join(f"{name}={option}" for name, option in parts.items() if option)


def _require_known(name: str, option: str) -> None:
    if option not in _OPTIONS[name]:
        close = difflib.get_close_matches(option, _OPTIONS[name], n=2)
        raise RemedyError(
            f"{name} must be one of {', '.join(_OPTIONS[name])}",
            repr(option),
            f"Did you mean {' or '.join(close)}?" if close else "Pick one of them.",
        )


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise RemedyError(
            "The scale of residual branches is a positive number",
            repr(text),
            "For example skip=residual:0.1.",
        )
    return scale
