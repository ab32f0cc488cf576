"""The workbench: one specimen, prepared, with everything that several instruments share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import NotApplicableError, RaggedError
from torchstone.linalg import Eigenpairs, ExtremeEigenpairs, LanczosQuadrature, top_eigenpairs
from torchstone.operators.hessian import Hessian
from torchstone.operators.trace import TraceResult, hessian_trace
from torchstone.plan import Plan
from torchstone.reading import CostClass, Need
from torchstone.specimen import Specimen, keeping_random_states
from torchstone.workbench.curvature import (
    PAIRS,
    PROBES,
    PRODUCTS,
    STEPS,
    TOLERANCE,
    density_of_spectrum,
    ends_of_spectrum,
    first,
)
from torchstone.workbench.features import layer_features
from torchstone.workbench.memory import Memory

FEATURE_WIDTH = 4096


class Workbench:
    """What instruments measure on.

    Results that several instruments need (outputs, losses, features, gradients, eigenpairs) are memoised by their
    settings under the plan's memory budget; an evicted one is computed again, with the same bits.

    Args:
        specimen: A prepared specimen (`Specimen.prepared`).
        plan: How thorough to be.
        seed: Seed of everything random.
    """

    def __init__(self, specimen: Specimen, plan: Plan, seed: int = 0) -> None:
        self.specimen, self.plan, self.seed = specimen, plan, seed
        self._memory = Memory(plan.memory_bytes)

    @classmethod
    def on(cls, specimen: Specimen, plan: Plan | str = "standard", seed: int = 0) -> Workbench:
        """Prepare a specimen by a plan and put it on a bench."""
        chosen = Plan.named(plan) if isinstance(plan, str) else plan
        examples = {"train": chosen.train_examples, "test": chosen.test_examples}
        ready = specimen.prepared(memory_bytes=chosen.memory_bytes, examples=examples, seed=seed)
        return cls(ready, chosen, seed)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator of its own for each name, so that instruments do not depend on each other's order."""
        digest = hashlib.blake2b(f"{self.seed}:{name}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    def sample(self, split: str, most: int, name: str) -> Tensor:
        """Increasing indices of at most `most` examples of a split, drawn with the generator of `name`."""
        count = self.specimen.size(split)
        if count <= most:
            return torch.arange(count)
        return torch.randperm(count, generator=self.generator(name))[:most].sort().values

    def memo(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result under `key`, made once; for work that several instruments share. Treat it as read-only."""
        return self._memory.get(key, make)

    # -- needs -----------------------------------------------------------------------------------------------------

    def lacks(self, need: Need) -> bool:
        """Whether the specimen misses what an instrument needs."""
        specimen = self.specimen
        match need:
            case Need.TRAIN:
                return False
            case Need.TEST:
                return not specimen.has("test")
            case Need.PARAMETERS:
                return not specimen.trainable
            case Need.LEARNING_RATE:
                return specimen.recipe is None or not specimen.recipe.learning_rates
            case Need.RETRAINING:
                return specimen.recipe is None or specimen.recipe.build is None
            case Need.INDEPENDENT_EXAMPLES:
                return specimen.coupled
            case Need.LABELS:
                return self.memo(
                    ("lacks", need), lambda: specimen.objective.labels(self._first_batch()) is None
                )
            case Need.FLOAT_INPUTS:
                return self.memo(
                    ("lacks", need), lambda: specimen.objective.inputs(self._first_batch()) is None
                )
            case Need.SCORES:
                return self.memo(
                    ("lacks", need), lambda: specimen.objective.scores(self._first_outputs()) is None
                )

    def _first_batch(self) -> Any:
        with keeping_random_states():
            return next(self.specimen.batches("train"))

    @torch.no_grad()
    def _first_outputs(self) -> Tensor:
        with self.specimen.measuring():
            return self.specimen.forward(self._first_batch())

    # -- shared results --------------------------------------------------------------------------------------------

    def outputs(self, split: str = "train") -> Tensor:
        """Outputs of every example, shape (N, ...), on the CPU. One forward pass.

        Raises:
            NotApplicableError: Outputs of varying shape (sequences padded batch by batch, say).
        """

        def make() -> Tensor:
            with torch.no_grad():
                return self._stacked("outputs", self.specimen.forward, split)

        return self.memo(("outputs", split), make)

    def losses(self, split: str = "train") -> Tensor:
        """Loss of every example, float64 (N,). One forward pass."""
        return self.memo(("losses", split), lambda: self.specimen.example_losses(split))

    def scores(self, split: str = "train") -> Tensor:
        """Class scores of every example in float64, shape (N, C).

        Raises:
            NotApplicableError: The task has no class scores.
        """
        scores = self.specimen.objective.scores(self.outputs(split))
        if scores is None:
            raise NotApplicableError(f"needs {Need.SCORES}")
        return scores.double()

    def labels(self, split: str = "train") -> Tensor:
        """Class label of every example, shape (N,).

        Raises:
            NotApplicableError: The task has none.
        """

        def of_batch(batch: Any) -> Tensor:
            labels = self.specimen.objective.labels(batch)
            if labels is None:
                raise NotApplicableError(f"needs {Need.LABELS}")
            if bool((labels < 0).any()):
                raise NotApplicableError("some examples have no label (ignore_index)")
            return labels

        return self.memo(("labels", split), lambda: self.specimen.map_over(of_batch, split))

    def class_count(self, split: str = "train") -> int | None:
        """Number of distinct labels among the examples; None where the task has no class labels."""
        if self.lacks(Need.LABELS):
            return None
        try:
            return len(self.labels(split).unique())
        except NotApplicableError:
            return None

    def errors(self, split: str = "train") -> Tensor:
        """Which examples are misclassified, bool (N,); ties count as errors only where argmax picks another class."""
        return self.scores(split).argmax(1) != self.labels(split)

    def inputs(self, split: str = "train") -> Tensor:
        """The continuous inputs of every example, flattened to (N, d), float32 on the CPU.

        Raises:
            NotApplicableError: Inputs are not continuous, or of varying shape.
        """

        def of_batch(batch: Any) -> Tensor:
            inputs = self.specimen.objective.inputs(batch)
            if inputs is None:
                raise NotApplicableError(f"needs {Need.FLOAT_INPUTS}")
            return inputs.reshape(inputs.shape[0], -1).float()

        return self.memo(("inputs", split), lambda: self._stacked("inputs", of_batch, split))

    def _stacked(self, what: str, function: Callable[[Any], Tensor], split: str) -> Tensor:
        try:
            return self.specimen.map_over(function, split)
        except RaggedError:
            raise NotApplicableError(
                f"needs {what} of one shape; those of different batches differ"
            ) from None

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's continuous input."""
        inputs = self.specimen.objective.inputs(self._first_batch())
        if inputs is None:
            raise NotApplicableError(f"needs {Need.FLOAT_INPUTS}")
        return tuple(inputs.shape[1:])

    def features(self, split: str = "train", width: int = FEATURE_WIDTH) -> dict[str, Tensor]:
        """Outputs of up to 24 layers by name in order of execution, each float32 (N, d). One forward pass."""
        return self.memo(("features", split, width), lambda: layer_features(self.specimen, split, width))

    def gradient(self) -> dict[str, Tensor]:
        """Gradient of the empirical risk by parameter name, float64. One forward and backward pass."""
        return self.memo(("gradient",), self.specimen.gradient)

    def top_eigenpairs(
        self, k: int = 1, *, tolerance: float = 1e-3, max_products: int | None = None, split: str = "train"
    ) -> Eigenpairs:
        """The k largest eigenvalues of the Hessian of the mean loss, with vectors and residuals.

        Cost: 5 to 100 Hessian products a pair, each about two gradients.

        Args:
            k: How many; at most as many as there are trainable parameters.
            tolerance: Residual to reach, relative to the largest eigenvalue.
            max_products: Budget of products.
            split: Part of the data.
        """
        if self._asks_for_ends and k <= PAIRS and tolerance >= TOLERANCE and max_products == PRODUCTS:
            ends = self.extreme_eigenpairs(split=split)
            if len(ends.largest.values) >= min(k, len(ends.largest.vectors)):
                return first(ends, k, tolerance)

        def make() -> Eigenpairs:
            hessian = Hessian(self.specimen, split, memory_bytes=self.plan.memory_bytes // 2)
            return top_eigenpairs(
                hessian,
                min(k, hessian.shape[0]),
                tolerance=tolerance,
                max_products=max_products,
                generator=self.generator("top_eigenpairs"),
            )

        return self.memo(("top_eigenpairs", k, tolerance, max_products, split), make)

    @property
    def _asks_for_ends(self) -> bool:
        """Whether the plan holds instruments that ask for both ends of the spectrum: then one search answers all.

        It must not matter which instrument comes first, so the plan decides, not what happens to be in memory.
        """
        return self.plan.most_expensive >= CostClass.MINUTES

    def extreme_eigenpairs(
        self,
        largest: int = PAIRS,
        *,
        tolerance: float = TOLERANCE,
        max_products: int = PRODUCTS,
        split: str = "train",
    ) -> ExtremeEigenpairs:
        """The largest eigenvalues of the Hessian of the mean loss and the smallest one, from one search.

        Cost: on networks with a few outliers 30 to 60 Hessian products for 16 pairs.

        Args:
            largest: How many of the largest; fewer come where there are fewer, or where memory would not hold more.
            tolerance: Residual to reach, relative to the largest eigenvalue in magnitude.
            max_products: Budget of products.
            split: Part of the data.
        """

        def make() -> ExtremeEigenpairs:
            generator = self.generator("extreme_eigenpairs")
            return ends_of_spectrum(
                self.specimen, split, largest, tolerance, max_products, self.plan.memory_bytes, generator
            )

        return self.memo(("extreme_eigenpairs", largest, tolerance, max_products, split), make)

    def spectral_density(
        self, probes: int = PROBES, steps: int = STEPS, split: str = "train"
    ) -> LanczosQuadrature:
        """The spectrum of the Hessian of the mean loss as a measure, by stochastic Lanczos quadrature.

        All eigenvalues where there are no more than 256 weights; else the largest ones are exact atoms.

        Cost: probes * steps Hessian products, after the search of `extreme_eigenpairs`.

        Args:
            probes: Random vectors.
            steps: Lanczos steps for each.
            split: Part of the data.
        """

        def make() -> LanczosQuadrature:
            ends = self.extreme_eigenpairs(split=split)
            generator = self.generator("spectral_density")
            return density_of_spectrum(
                self.specimen, split, ends, probes, steps, self.plan.memory_bytes, generator
            )

        return self.memo(("spectral_density", probes, steps, split), make)

    def hessian_trace(self, tolerance: float = 0.02, probes: int = 100) -> TraceResult:
        """Trace of the Hessian of the mean training loss, see `torchstone.operators.hessian_trace`.

        Args:
            tolerance: Relative standard error at which probing stops.
            probes: At most this many probes.
        """

        def make() -> TraceResult:
            return hessian_trace(
                self.specimen,
                tolerance=tolerance,
                min_probes=min(20, probes),
                max_probes=probes,
                generator=self.generator("hessian_trace"),
                memory_bytes=self.plan.memory_bytes // 2,
            )

        return self.memo(("hessian_trace", tolerance, probes), make)

    @property
    def sampling_notes(self) -> tuple[str, ...]:
        """What a reader must know of subsampling."""
        return tuple(split.note for split in self.specimen.splits.values() if split.note)
