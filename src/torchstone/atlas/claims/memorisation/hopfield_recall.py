r"""A Hopfield network recalls random patterns below its capacity and loses them beyond it.

With Hebbian weights the crosstalk of P patterns on one bit is nearly normal with variance P / N. At P = 0.05 N the chance
that it flips a bit is 4e-6; beyond 0.138 N one flip brings about others, and recall breaks down at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, numbers
from torchstone.memory import CRITICAL_LOAD, HopfieldNetwork, overlap, unstable_bit_rate

LOADS = (0.03, 0.05, 0.1, 0.138, 0.17, 0.2, 0.25)
FLIPPED = 0.1
SMALL, BIT_LOAD = 0.05, 0.2


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """P = 0.05 N patterns."""
    return experiment(scale, generator, load=SMALL)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """P = 0.25 N, beyond the capacity."""
    return experiment(scale, generator, load=0.25)


def experiment(scale: Scale, generator: torch.Generator, load: float) -> Evidence:
    """Exact recall at one load, overlap over all loads, and the rate of unstable bits."""
    neurons = 400 if scale is Scale.QUICK else 1000
    exact, _ = recalled(neurons, load, generator)
    means = {one: recalled(neurons, one, generator)[1] for one in LOADS}
    xi = patterns(int(BIT_LOAD * neurons), neurons, generator)
    flips = ((xi @ HopfieldNetwork.store(xi).weights) * xi < 0).double()
    return Evidence.all_of(
        Evidence.at_least("share of patterns recalled bit by bit", exact, 1.0),
        Evidence.at_least("mean overlap at 0.05 N patterns", means[SMALL], 0.9999),
        Evidence.at_most("mean overlap at 0.25 N patterns", means[LOADS[-1]], 0.75),
        Evidence.close(
            "share of unstable bits at 0.2 N patterns",
            flips.mean(),
            unstable_bit_rate(BIT_LOAD),
            relative=0.1,
        ),
        figures=(overlaps(means, neurons),),
    )


def patterns(count: int, neurons: int, generator: torch.Generator) -> Tensor:
    """Independent fair signs, (count, neurons)."""
    return 2.0 * torch.randint(0, 2, (count, neurons), generator=generator).double() - 1


def recalled(neurons: int, load: float, generator: torch.Generator) -> tuple[float, float]:
    """Share of patterns recalled exactly from a tenth of their bits flipped, and the mean overlap."""
    xi = patterns(round(load * neurons), neurons, generator)
    noise = torch.rand(xi.shape, generator=generator) < FLIPPED
    found = HopfieldNetwork.store(xi).recall(torch.where(noise, -xi, xi), generator=generator)
    exact = float((found.states == xi).all(1).double().mean())
    return exact, float(overlap(found.states, xi).diagonal().mean())


def overlaps(means: dict[float, float], neurons: int) -> Curve:
    """Recall over the load."""
    return Curve(
        f"Recall of a Hopfield network of {neurons} neurons",
        Axis("patterns per neuron"),
        Axis("mean overlap with the stored pattern"),
        (Line("from 10% of the bits flipped", numbers(means), numbers(means.values())),),
        (Marker("critical load, N to infinity", CRITICAL_LOAD, "x"),),
        caption="1 is perfect recall. It breaks down around the critical load, the more sharply the larger the network.",
    )


CLAIM = Claim(
    id="hopfield_recall",
    theme=Theme.MEMORISATION,
    title="Recall and capacity of Hopfield networks",
    statement=(
        "A Hebbian network of N neurons recalls 0.05 N random patterns exactly from a tenth of their bits flipped; beyond "
        "0.138 N recall breaks down. The first update flips a stored bit with probability erfc(sqrt(N / 2P)) / 2."
    ),
    source="Hopfield 1982; Amit, Gutfreund & Sompolinsky 1985; Hertz, Krogh & Palmer 1991, section 2.2",
    assumptions=(
        "Patterns are independent fair signs.",
        "Neurons are updated one at a time, in random order.",
    ),
    refuted_by="a pattern at 0.05 N that is not recalled bit by bit, or an overlap above 0.75 at 0.25 N",
    run=run,
    counterexample=counterexample,
    rows=("M11",),
)
