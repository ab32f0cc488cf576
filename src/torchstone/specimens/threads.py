"""How many threads an examination's arithmetic takes: a small network waits for them longer than it computes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch

from torchstone.errors import SettingError

# Parameters. On two cores that were busy with other work, `examine two-moons --plan quick` took 30 s on one thread and
# 130 s on two (9 and 39 s of processor time): threads meet at the end of each of very many very short operations.
SMALL = 50_000


@contextlib.contextmanager
def threads(wanted: int | None, built_in: bool) -> Iterator[Callable[[int], None]]:
    """PyTorch's number of threads inside, and as it was after.

    Without a wish, and where neither OMP_NUM_THREADS nor MKL_NUM_THREADS nor the user's own code has set it, networks with
    fewer than 50,000 parameters take one thread, and built-in specimens are trained on one: the number depends on nothing
    but the network, so that the same seed gives the same bits on the same machine.

    Args:
        wanted: So many; None for the rule.
        built_in: Whether a built-in specimen is about to be trained.

    Yields:
        What to call with the number of parameters as soon as it is known.

    Raises:
        SettingError: Fewer than one thread.
    """
    if wanted is not None and wanted < 1:
        raise SettingError("--threads must be at least 1", str(wanted), "Leave it out for the default.")
    before = torch.get_num_threads()
    free = wanted is None and not any(os.environ.get(f"{kind}_NUM_THREADS") for kind in ("OMP", "MKL"))
    start = wanted or (1 if free and built_in else before)

    def settle(parameters: int) -> None:
        if free and torch.get_num_threads() == start:
            torch.set_num_threads(1 if parameters < SMALL else before)

    torch.set_num_threads(start)
    try:
        yield settle
    finally:
        torch.set_num_threads(before)
