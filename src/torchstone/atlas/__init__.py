"""The theory as experiments that anyone can run: claims, each checked against a closed form."""

from torchstone.atlas.check import Check, Kind
from torchstone.atlas.claim import Claim, Erratum, Scale
from torchstone.atlas.evidence import Evidence
from torchstone.atlas.theme import Theme

__all__ = ["Check", "Claim", "Erratum", "Evidence", "Kind", "Scale", "Theme"]
