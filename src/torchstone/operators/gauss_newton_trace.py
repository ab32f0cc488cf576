"""The trace of the generalised Gauss-Newton matrix, by parameter and by example, without probes where affordable.

tr(G) = (1/N) sum_n sum_k sign_nk ||J_n^T s_nk||^2, where the loss Hessian of example n is sum_k sign_nk s_nk s_nk^T.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.batch_traces import BatchTraces
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.loss_curvature import LossCurvature, loss_curvature
from torchstone.operators.piecewise_linear import curved_parameters
from torchstone.specimen import Specimen

WORK_BYTES = 2**28


@dataclass
class GaussNewtonTrace:
    """Traces of the blocks of the Gauss-Newton matrix, one a parameter.

    Attributes:
        by_example: By name, each example's term (N,) in float64, on the CPU: their mean is the trace.
        by_sample: By name, where cotangents were sampled, one unbiased estimate of the trace each (m,); else empty.
        columns: Most cotangents an example.
        curved: Parameters whose block of the Hessian may have another trace, and the operation that causes it.
        formed: Parameters whose per-example gradients had to be formed by torch.func.
        missing: Parameters without an answer, with the reason.
    """

    by_example: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)
    by_sample: dict[str, Float[Tensor, " m"]] = field(default_factory=dict)
    columns: int = 0
    curved: dict[str, str] = field(default_factory=dict)
    formed: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """The trace of a parameter's block."""
        return float(self.by_example[name].mean())

    def variance(self, name: str) -> float:
        """Variance of that value by the sampling of cotangents; 0 where there was none."""
        samples = self.by_sample.get(name)
        return float(samples.var()) / len(samples) if samples is not None else 0.0


def gauss_newton_trace(
    specimen: Specimen,
    split: str = "train",
    *,
    max_columns: int = 128,
    samples: int = 16,
    generator: torch.Generator,
    memory_bytes: int = WORK_BYTES,
) -> GaussNewtonTrace:
    """Trace of the Gauss-Newton matrix of the empirical risk.

    Linear and convolution layers, embeddings, biases, normalisation weights, scales and attention projections need no
    per-example gradient; what enters the network in another way gets its per-example gradients by `torch.func`.
    Where in the activations an example lies is found by experiment, so sequence-first layers, folded windows and tied
    weights are right or refused.

    Cost: one forward pass and K + 2 backward passes that stop at the first layer's output, K the number of outputs an
    example (C - 1 for softmax over C classes), plus the norms. With more than `max_columns`, `samples` cotangents are
    drawn instead. Memory: a batch's graph and `memory_bytes`.

    Args:
        specimen: What is examined.
        split: Part of the data.
        max_columns: Most cotangents an example before they are sampled.
        samples: Number of sampled cotangents then, at least 2.
        generator: Draws them.
        memory_bytes: For what the norms need beside the graph; batches are cut to keep within.

    Source: Dangel, Kunstner & Hennig 2020, BackPACK, section 2 (loss Hessian as outer products); Goodfellow 2015,
    arXiv:1510.01799 (norms of per-example gradients); Rochette, Manoel & Tramel 2019 (convolutions).
    """
    work = _Work(specimen, max_columns, samples, generator, memory_bytes)
    with (
        specimen.measuring(),
        twice_differentiable(specimen.model, specimen.device),
        torch.enable_grad(),
        specimen.processes.telling_failure(),
    ):
        for batch in specimen.share(split):
            work.take(batch)
    return work.finish()


class _Work:
    """Batches one after another."""

    def __init__(
        self,
        specimen: Specimen,
        max_columns: int,
        samples: int,
        generator: torch.Generator,
        memory_bytes: int,
    ) -> None:
        self.specimen, self.max_columns, self.samples = specimen, max_columns, samples
        self.generator, self.memory_bytes = generator, memory_bytes
        self.piece: int | None = None
        self.result = GaussNewtonTrace()
        self.batches: list[dict[str, list[Tensor]]] = []  # of each batch, by name, the rows of its pieces
        self.sampled = False

    def take(self, batch: Batch) -> None:
        """One batch, in pieces where memory demands it."""
        self.batches.append({name: [] for name in self.specimen.trainable})
        count = self.specimen.objective.size(batch)
        # Frozen noise belongs to whole batches.
        if self.piece is None and count > 2 and not self.specimen.freeze_noise:
            self.piece = self._measure(self.specimen.objective.take(batch, torch.arange(2)))
        start = 0
        while start < count:
            stop = min(count, start + (self.piece or count))
            rows = torch.arange(start, stop)
            part = batch if stop - start == count else self.specimen.objective.take(batch, rows)
            fits = self._of_piece(part)
            if fits < stop - start:
                self.piece = fits
            else:
                start = stop

    def _measure(self, batch: Batch) -> int:
        """How many examples like these fit the memory."""
        outputs = self.specimen.forward(batch)
        if not outputs.requires_grad:
            return self.memory_bytes
        traces = BatchTraces.of(
            self.specimen, batch, outputs, self.specimen.trainable, max(1, self.max_columns)
        )
        return max(1, self.memory_bytes // max(1, traces.bytes_per_example()))

    def _of_piece(self, batch: Batch) -> int:
        """Work off a piece if it fits the memory; the number of examples that would."""
        specimen, count = self.specimen, self.specimen.objective.size(batch)
        outputs = specimen.forward(batch)
        wanted = {name: p for name, p in specimen.trainable.items() if name not in self.result.missing}
        self.result.curved |= curved_parameters(outputs, specimen.losses(outputs, batch), specimen.trainable)
        if not wanted or not outputs.requires_grad:
            self._enter_zeros(wanted, count)
            return count
        curvature = self._curvature(outputs, batch)
        if isinstance(curvature, str):
            self._miss(list(wanted), curvature)
            return count
        if not curvature.count:  # losses that are affine in the outputs
            self._enter_zeros(wanted, count)
            return count
        exact = curvature.count <= self.max_columns
        self.sampled = self.sampled or not exact
        columns = curvature.count if exact else self.samples
        traces = BatchTraces.of(specimen, batch, outputs, wanted, columns)
        fits = max(1, self.memory_bytes // max(1, traces.bytes_per_example()))
        if fits < count and not specimen.freeze_noise:
            return fits
        draw = curvature.column if exact else lambda _k: curvature.sample(self.generator)
        found = traces.norms(draw, columns, self.memory_bytes, each=not exact)
        self.result.columns = max(self.result.columns, columns)
        self.result.formed |= set(traces.loose)
        for name, part in found.items():
            self.batches[-1][name].append(part)
        self._miss(
            [name for name in wanted if name not in found],
            "its use has no rule and the network does not run under torch.func.vmap",
        )
        return count

    def _enter_zeros(self, names: Iterable[str], count: int) -> None:
        for name in names:
            self.batches[-1][name].append(torch.zeros(1, count, dtype=torch.float64))

    def _curvature(self, outputs: Tensor, batch: Batch) -> LossCurvature | str:
        if self.specimen.coupled:
            return "an example's output depends on the rest of its batch"
        curvature = loss_curvature(self.specimen, outputs, batch)
        if isinstance(curvature, str):
            return curvature
        if curvature.count > self.max_columns and not curvature.can_sample:
            return f"{curvature.count:,} outputs an example, and a loss that is not convex in them"
        return curvature

    def _miss(self, names: list[str], reason: str) -> None:
        self.result.missing |= dict.fromkeys(names, reason)

    def finish(self) -> GaussNewtonTrace:
        """Join the batches, those of other processes included."""
        processes, result = self.specimen.processes, self.result
        batches = processes.gathered(self.batches)
        for other, sampled in processes.of_each((result, self.sampled)):
            result.columns = max(result.columns, other.columns)
            result.curved |= other.curved
            result.formed |= other.formed
            result.missing |= other.missing
            self.sampled = self.sampled or sampled
        result.formed -= set(result.missing)
        rounds = self.samples if self.sampled else 1
        for name in self.specimen.trainable:
            if name in result.missing:
                continue
            # A batch without curvature, or one decomposed exactly, has one row where others have one a sample.
            parts = [part.cpu() for batch in batches for part in batch[name]]
            whole = torch.cat([part.expand(rounds, -1) for part in parts], dim=1)
            result.by_example[name] = whole.mean(0)
            if self.sampled:
                result.by_sample[name] = whole.mean(1)
        return result


def total_variance(trace: GaussNewtonTrace) -> float:
    """Variance of the sum of all parameters' traces by the sampling of cotangents, which parameters share."""
    if not trace.by_sample:
        return 0.0
    samples = torch.stack(list(trace.by_sample.values())).sum(0)
    return float(samples.var()) / len(samples) if len(samples) > 1 else math.inf
