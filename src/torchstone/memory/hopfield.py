r"""The Hopfield network: patterns of +1 and -1 stored in symmetric weights, recalled from noisy versions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.span_projection import span_projection

Rule = Literal["hebb", "projection"]

CRITICAL_LOAD = 0.138
"""Patterns per neuron beyond which Hebbian recall of random patterns breaks down (Amit, Gutfreund & Sompolinsky 1985)."""


@dataclass(frozen=True)
class Recall:
    """Where recall ended.

    Attributes:
        states: (B, N) of +1 and -1.
        sweeps: Passes over all neurons made.
        settled: Whether the last pass changed nothing, for each start, (B,).
    """

    states: Tensor
    sweeps: int
    settled: Tensor


@dataclass(frozen=True)
class HopfieldNetwork:
    r"""N neurons of state +1 or -1 with symmetric weights W, no weight from a neuron to itself.

    `store` makes W from patterns. Updating one neuron at a time, :math:`s_i \leftarrow \mathrm{sign}(\sum_j W_{ij} s_j)`,
    never raises the energy :math:`-\frac12 s^T W s`, so every recall ends in a fixed point.

    Attributes:
        weights: W, float64 (N, N), symmetric with diagonal 0.

    Source: Hopfield 1982.
    """

    weights: Float[Tensor, "n n"]

    @classmethod
    def store(cls, patterns: Tensor, rule: Rule = "hebb") -> HopfieldNetwork:
        r"""The network of given patterns.

        "hebb": :math:`W = \frac1N \sum_\mu \xi^\mu \xi^{\mu T}`, which recalls random patterns up to about 0.138 N of
        them, and exactly up to N / (2 ln N). "projection": W is the projection onto the patterns' span, which keeps every
        set of linearly independent patterns, at the price of weights that are not local. Diagonals are set to 0.

        Args:
            patterns: (P, N) of +1 and -1.
            rule: How weights come from patterns.

        Raises:
            SettingError: Other values, not a matrix, or another rule.

        Source: Hopfield 1982, equation 2; Personnaz, Guyon & Dreyfus 1985 (projection).
        """
        if patterns.ndim != 2 or patterns.numel() == 0 or not bool((patterns.abs() == 1).all()):
            raise SettingError(
                "patterns must be a matrix (P, N) of +1 and -1",
                f"shape {tuple(patterns.shape)}, values {patterns.unique()[:4].tolist()}",
                "Map 0 to -1, or take signs.",
            )
        if rule not in ("hebb", "projection"):
            raise SettingError('rule must be "hebb" or "projection"', repr(rule), "Name one of them.")
        xi = patterns.to(torch.float64)
        weights = xi.T @ xi / xi.shape[1] if rule == "hebb" else span_projection(xi)
        return cls(weights - weights.diagonal().diag())

    def energy(self, states: Tensor) -> Float[Tensor, " b"]:
        """-s W s / 2 of each state, (B,)."""
        s = states.to(torch.float64)
        return -0.5 * ((s @ self.weights) * s).sum(1)

    def recall(self, starts: Tensor, *, generator: torch.Generator, sweeps: int = 50) -> Recall:
        """Update one neuron after another, in a fresh random order each pass, until a pass changes nothing.

        Cost: a pass is N^2 operations a start. A neuron whose input is exactly 0 keeps its state.

        Args:
            starts: (B, N) of +1 and -1.
            generator: Draws the orders, on the CPU.
            sweeps: Most passes.

        Returns:
            The states where it ended.

        Raises:
            SettingError: Starts of another width, or no pass.
        """
        n = len(self.weights)
        if sweeps < 1:
            raise SettingError("sweeps must be at least 1", str(sweeps), "Use 50.")
        if starts.ndim != 2 or starts.shape[1] != n:
            raise SettingError(
                f"starts must be states (B, {n})", f"shape {tuple(starts.shape)}", "Pass one neuron a column."
            )
        states, sweep = starts.to(torch.float64).clone(), 0
        settled = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        while sweep < sweeps and not bool(settled.all()):
            sweep += 1
            before = states.clone()
            for neuron in torch.randperm(n, generator=generator).tolist():
                field = states @ self.weights[neuron]  # a row, for it is symmetric
                states[:, neuron] = torch.where(field == 0, states[:, neuron], field.sign())
            settled = (states == before).all(1)
        return Recall(states, sweep, settled)


def overlap(states: Tensor, patterns: Tensor) -> Float[Tensor, "b p"]:
    """Overlap s . xi / N of each state with each pattern, in [-1, 1]; 1 is perfect recall.

    Args:
        states: (B, N).
        patterns: (P, N).
    """
    return states.to(torch.float64) @ patterns.to(torch.float64).T / states.shape[1]


def unstable_bit_rate(load: float) -> float:
    r"""Share of a stored random pattern's bits that the first Hebbian update would flip: :math:`\frac12 \mathrm{erfc}(1/\sqrt{2\alpha})`.

    The crosstalk of P - 1 other random patterns is nearly normal with variance alpha = P/N, and flips a bit where it is
    below -1. Asymptotic in N.

    Args:
        load: alpha, patterns per neuron, positive.

    Returns:
        A probability.

    Raises:
        SettingError: A load that is not positive.

    >>> round(unstable_bit_rate(0.138), 4)
    0.0036

    Source: Hertz, Krogh & Palmer 1991, section 2.2, table 2.1.
    """
    if not 0 < load < math.inf:
        raise SettingError(
            "load must be positive and finite", repr(load), "Pass patterns divided by neurons."
        )
    return 0.5 * math.erfc(1 / math.sqrt(2 * load))
