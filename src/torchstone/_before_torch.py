"""What has to be set before PyTorch is loaded; the package imports this first.

OpenMP's threads wait for each other by spinning, for milliseconds each time. On two cores, one of them busy with another
program, a training step of the digits' network takes 49 ms in place of 2.8; with a short spin 17, and 2.8 where nothing else
runs (one thread: 3.7 and 3.5).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SPINS = "10000"


def spin_briefly(program: str) -> None:
    """Shorten the spin of GNU's OpenMP, where the user has not said how to wait.

    Only in the command's own process: a library does not change how the program that imports it waits.

    Args:
        program: `sys.argv[0]`, which is "-m" while `python -m torchstone` imports the package.
    """
    if Path(program).stem in ("torchstone", "-m") and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


spin_briefly(sys.argv[0] if sys.argv else "")
