"""Plotly's script, packed into the page: deflated it is 1.5 of its 4.8 MB, and the browser unpacks it when a plot is due.

The page's first screen never waits for it, and the page's policy admits exactly this script, by its hash.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Bundle:
    """A script in a form that HTML can carry.

    Args:
        packed: Base64 of its gzip stream.
        source: Its hash as a source of a content security policy.
    """

    packed: str
    source: str


@cache
def plotly_bundle() -> Bundle:
    """The script of the installed Plotly."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    # No time stamp: the same Plotly gives the same page, byte for byte.
    packed = gzip.compress(script.encode("utf-8"), 6, mtime=0)
    return Bundle(base64.b64encode(packed).decode("ascii"), hash_source(script))


def hash_source(script: str) -> str:
    """The hash that lets a page run this inline script and no other (CSP 3, section 2.3.1).

    >>> hash_source("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
