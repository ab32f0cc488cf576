"""A run that has come to rest: at a saddle or at a minimum?"""

from __future__ import annotations

from dataclasses import replace

from torchstone.watching.record import Alert
from torchstone.workbench import Workbench

SADDLE = 0.1


def at_rest(alert: Alert, bench: Workbench) -> Alert | None:
    """What the ends of the Hessian's spectrum on the probe say about it.

    The probe's own gradient need not have vanished where that of all data has, so that the sign of the curvature decides: at
    a minimum, eigenvalues below zero are smaller than the largest by orders of magnitude (Sagun, Bottou & LeCun 2017).

    Args:
        alert: That the loss rests without a gradient.
        bench: The probe.

    Returns:
        The alert, in words about the saddle; None at a minimum, where nothing is wrong.
    """
    ends = Workbench(bench.specimen, bench.plan, bench.seed).extreme_eigenpairs(
        tolerance=0.02, max_products=100
    )
    smallest, largest = float(ends.smallest.values[0]), float(ends.largest.values[0])
    if not smallest < -SADDLE * max(largest, 0.0) or not smallest < 0:
        return None
    message = (
        f"The loss rests at a saddle: the gradient has all but vanished, and the Hessian's eigenvalues reach from "
        f"{smallest:.3g} to {largest:.3g} on the probe."
    )
    remedy = (
        "Initialise anew at random, or add noise or momentum; examine by negative_curvature how to leave it."
    )
    return replace(alert, message=message, remedy=remedy)
