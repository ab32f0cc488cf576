"""The search for eigenpairs at the ends of a spectrum: expand, restart, look where the search has not been."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.block_lanczos import BlockLanczos, Ritz
from torchstone.linalg.checkpoint import Checkpoint, digest
from torchstone.linalg.complement import ComplementChain
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms
from torchstone.linalg.probes import draw_probes

# No verdict before this many directions beyond k: a start may happen to lie close to a wrong eigenvector.
GUARD = 4
# Products at most to look where the search has not been, and how close to the last wanted eigenvalue that must get.
CHAIN = 16
CLEARANCE = 0.05

Progress = Callable[[int, int], object]


class Wanted(NamedTuple):
    """How many eigenpairs: at the two ends, or by magnitude."""

    largest: int = 0
    smallest: int = 0
    magnitude: int = 0

    @property
    def total(self) -> int:
        """All of them together."""
        return self.largest + self.smallest + self.magnitude

    def order(self, values: Float[Tensor, " m"]) -> Tensor:
        """Positions of ascending values by importance, the wanted ones first; those at both ends only once."""
        if self.magnitude:
            return values.abs().argsort(descending=True, stable=True)
        up = list(range(len(values)))
        down = up[::-1]
        head = down[: self.largest] + up[: self.smallest]
        if self.largest and self.smallest:
            tail = [i for pair in zip(down[self.largest :], up[self.smallest :], strict=False) for i in pair]
        else:
            tail = down if self.largest else up
        return torch.tensor(list(dict.fromkeys(head + tail + up)), dtype=torch.long)


@dataclass(frozen=True)
class SearchSettings:
    """What a search needs besides the map: see `top_eigenpairs`."""

    wanted: Wanted
    tolerance: float
    max_products: int
    block: int
    capacity: int
    certify: bool


class Found(NamedTuple):
    """Where a search ended: wanted first in `order`."""

    values: Float[Tensor, " m"]
    order: Tensor
    vectors: Float[Tensor, "n k"]
    residuals: Float[Tensor, " k"]
    products: int
    converged: bool
    above: float
    below: float


class EigenSearch:
    """One search with its process, its look elsewhere and its checkpoint."""

    def __init__(
        self,
        A: LinearMap,
        settings: SearchSettings,
        generator: torch.Generator,
        start: Tensor | None,
        checkpoint: Checkpoint | None,
        progress: Progress | None,
    ) -> None:
        self.A, self.settings, self.generator = A, settings, generator
        self.checkpoint, self.progress = checkpoint, progress
        self.count = min(settings.wanted.total, A.shape[0])
        self.widened = False
        # Products to spend on rivals: in a dense spectrum there is always another one.
        self.elsewhere, self.rounds, self.patience = 0, 0, settings.capacity
        saved = checkpoint.load() if checkpoint else None
        if saved is None and start is None:
            start = draw_probes(A, settings.block, generator)
        self.process = BlockLanczos(
            A, torch.empty(A.shape[0], 0, dtype=A.dtype, device=A.device), settings.capacity
        )
        if saved is not None:
            self._resume(saved)
        else:
            assert start is not None
            self.process.inject(start)

    def run(self) -> Found:
        """Expand and restart until the residuals reach the tolerance or the budget is spent."""
        process = self.process
        while True:
            self._grow()
            self._save()
            ritz = process.ritz()
            order = self.settings.wanted.order(ritz.values)
            wanted = order[: self.count]
            missing = self._missing(ritz, order)
            if len(missing) == 0 and self.patience > 0:
                missing = self._rivals(ritz, order)
                self.patience -= self.settings.block
            if self.progress is not None:
                self.progress(max(0, self.count - len(missing)), self.count)
            if self._spent():
                return self._found(ritz, order, self._next(ritz, order))
            if len(missing) and not process.exhausted:
                self._advance(ritz, order, missing)
                continue
            if not self.settings.certify or process.size == self.A.shape[0]:
                return self._found(ritz, order, self._next(ritz, order))
            if not self.widened and self._is_cluster(ritz, wanted):
                self.widened = True
                if self._inject(ritz, draw_probes(self.A, self.count, self.generator)):
                    continue
            hidden, certified = self._look_elsewhere(ritz, wanted)
            if hidden is None or not self._inject(ritz, hidden):
                return self._found(ritz, order, certified)

    def _grow(self) -> None:
        """Products up to the number below which there is no verdict."""
        process, n = self.process, self.A.shape[0]
        while process.size < self.count or (
            process.size < min(self.count + GUARD, n) and not process.exhausted
        ):
            self._save()
            if process.exhausted:
                process.inject(draw_probes(self.A, self._next_width(), self.generator))
            process.expand(self.settings.block)

    def _missing(self, ritz: Ritz, order: Tensor) -> Tensor:
        """Wanted pairs whose residuals are too large, and that products would make smaller."""
        wanted, rest = order[: self.count], order[self.count :]
        enough, residuals = self._enough(ritz), ritz.residuals + self.process.drift
        noise = ritz.residuals - ritz.outside
        improvable = ritz.outside > (noise / 10).clamp(min=self.process.floor)
        large = residuals[wanted] > enough
        if len(rest):
            # At the edge of a continuum a small residual still hides a mixture of several eigenvectors.
            gaps = (ritz.values[wanted][:, None] - ritz.values[rest]).abs().amin(dim=1)
            errors = torch.minimum(residuals[wanted], residuals[wanted].square() / gaps.clamp(min=1e-300))
            large |= errors > max(enough / 3, self.process.floor)
        return wanted[large & improvable[wanted]]

    def _rivals(self, ritz: Ritz, order: Tensor) -> Tensor:
        """Ritz pairs that may hide a wanted one: behind the wanted, but among them if moved by their residual.

        They are mixtures of eigenvectors, most often of the two ends of an indefinite spectrum.
        """
        enough, rest = self._enough(ritz), order[self.count :]
        top, bottom = self._edges(ritz.values[order[: self.count]])
        values, residuals = ritz.values[rest], ritz.residuals[rest]
        among = (values + residuals > top + enough) | (values - residuals < bottom - enough)
        return rest[among & (ritz.outside[rest] > enough)]

    def _is_cluster(self, ritz: Ritz, wanted: Tensor) -> bool:
        """Whether the wanted of one end are one cluster to this tolerance, of which one vector sees only a part."""
        values, kinds = ritz.values[wanted], self.settings.wanted
        top, bottom = self._edges(values)
        if kinds.magnitude:
            values, bottom = values.abs(), -math.inf
        reach = 3 * self._enough(ritz)
        at_top = max(kinds.largest, kinds.magnitude) > 1 and float(values.max()) - top <= reach
        return at_top or (kinds.smallest > 1 and bottom - float(values.min()) <= reach)

    def _enough(self, ritz: Ritz) -> float:
        return max(self.settings.tolerance * float(ritz.values.abs().max()), self.process.floor)

    def _spent(self) -> bool:
        reserve = self.settings.block + (self.count if self.process.drift > 0 else 0)
        return self.process.products + self.elsewhere + reserve > self.settings.max_products

    def _advance(self, ritz: Ritz, order: Tensor, missing: Tensor) -> None:
        """Products until it is worth to look at the Ritz pairs again."""
        process, block = self.process, self.settings.block
        if process.width > block:
            process.turn(ritz.coefficients[:, missing])
        if not process.has_room(block):
            self._restart(ritz, order, missing, block)
        # Decomposing T costs m^3, a product O(n m): with hundreds of vectors not after every product.
        stride = 1 + process.size // 40 if process.width <= block else 1
        for _ in range(stride):
            process.expand(block)
            if process.exhausted or self._spent() or not process.has_room(block):
                return

    def _restart(self, ritz: Ritz, order: Tensor, missing: Tensor, extra: int) -> None:
        """Keep the wanted, what is missing of them, and the next best: half the room, where that leaves `extra`."""
        # The next eigenvalues decide how fast the wanted ones converge, so they are not forgotten.
        capacity = self.settings.capacity
        kept = max(self.count, min(capacity // 2, capacity - self.process.width - extra))
        after = order[self.count :]
        later = (~torch.isin(after, missing)).long().argsort(stable=True)
        chosen = torch.cat([order[: self.count], after[later]])[:kept]
        self.process.restart(ritz.coefficients[:, chosen])

    def _next_width(self) -> int:
        """Directions to add: twice as many each time, as copies come in numbers."""
        self.rounds += 1
        return min(2 ** (self.rounds - 1), self.count)

    def _inject(self, ritz: Ritz, columns: Tensor) -> bool:
        """Take directions into the basis, after a restart where they need one; False where there is no room."""
        process, old = self.process, self.process.size
        # N grows by every direction taken in; beside it the wanted pairs and the next products must find room.
        if self.settings.capacity < self.A.shape[0]:
            room = (self.settings.capacity - self.count - process.width - self.settings.block) // 2
        else:
            room = self.A.shape[0] - process.size - process.width
        count = max(0, min(columns.shape[1], room))
        if not process.has_room(2 * count):
            order = self.settings.wanted.order(ritz.values)
            self._restart(ritz, order, order[:0], 2 * count)
            old = process.size
        process.inject(columns[:, :count])
        if (
            process.size + process.width == self.A.shape[0]
        ):  # what it shows lies in N, of which nothing may be left
            count = process.width
        while process.size < old + count and not process.exhausted and not self._spent():
            process.expand(min(self.settings.block, old + count - process.size))
        return process.size > old

    def _next(self, ritz: Ritz, order: Tensor) -> tuple[float, float]:
        """The other eigenvalues where the basis holds them all, and no bounds where it does not."""
        if self.process.size < self.A.shape[0]:
            return math.inf, -math.inf
        rest = ritz.values[order[self.count :]].tolist()
        return max(rest, default=-math.inf), min(rest, default=math.inf)

    def _look_elsewhere(self, ritz: Ritz, wanted: Tensor) -> tuple[Tensor | None, tuple[float, float]]:
        """Directions that show a wanted eigenvalue not found, and else bounds on all the others."""
        known = torch.linalg.qr(self.process.basis @ ritz.coefficients[:, wanted].to(self.A.dtype)).Q
        chain = ComplementChain(self.A, known, self.generator, CHAIN, self.process.scale)
        top, bottom = self._edges(ritz.values[wanted])
        slack = self._enough(ritz)
        margin = max(slack, CLEARANCE * float(ritz.values.abs().max()))
        upper, lower, hidden = math.inf, -math.inf, known[:, :0]
        while hidden.shape[1] == 0 and not chain.finished and not self._spent():
            chain.step()
            self.elsewhere += 1
            hidden = torch.cat([chain.above(top + slack), chain.below(bottom - slack)], dim=1)
            upper, lower = chain.upper(), chain.lower()
            if upper <= top + margin and lower >= bottom - margin:
                break
        moved = float(torch.linalg.vector_norm(ritz.residuals[wanted]))
        if hidden.shape[1] == 0:
            return None, (upper + moved, lower - moved)
        more = max(0, self._next_width() - hidden.shape[1])
        return torch.cat([hidden, draw_probes(self.A, more, self.generator)], dim=1), (upper, lower)

    def _edges(self, values: Tensor) -> tuple[float, float]:
        """The last wanted eigenvalue of each end; infinite for an end that nobody asked for."""
        kinds, ordered = self.settings.wanted, values.sort(descending=True).values
        if kinds.magnitude:
            edge = float(values.abs().min())
            return edge, -edge
        top = float(ordered[kinds.largest - 1]) if kinds.largest else math.inf
        return top, float(ordered[-kinds.smallest]) if kinds.smallest else -math.inf

    def _found(self, ritz: Ritz, order: Tensor, certified: tuple[float, float]) -> Found:
        process, wanted = self.process, order[: self.count]
        vectors = process.basis @ ritz.coefficients[:, wanted].to(self.A.dtype)
        goal = self.settings.tolerance * float(ritz.values.abs().max())
        residuals = ritz.residuals[wanted] + process.floor / 2
        if process.drift > 0:  # inexact products: the recurrence no longer knows
            self.elsewhere += len(wanted)
            rest = self.A.matmat(vectors).detach() - vectors * ritz.values[wanted].to(self.A.dtype)
            residuals = column_norms(rest)
        if self.checkpoint is not None:
            self.checkpoint.remove()
        return Found(
            ritz.values,
            order,
            vectors,
            residuals,
            process.products + self.elsewhere,
            bool((residuals <= goal).all()) and process.size >= self.count,
            *certified,
        )

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        counts = torch.tensor([self.elsewhere, self.rounds, self.patience, int(self.widened)])
        extra = {"counts": counts, "generator": self.generator.get_state()}
        self.checkpoint.save(self.process.state() | extra)

    def _resume(self, saved: dict[str, Tensor]) -> None:
        """Go on from a saved state, after one product that proves it to be of this map."""
        process = self.process
        process.restore(saved)
        self.elsewhere, self.rounds, self.patience, widened = saved["counts"].tolist()
        self.widened = bool(widened)
        self.generator.set_state(saved["generator"])
        if process.size == 0:
            return
        last = process.size - 1
        product = self.A.matvec(process.basis[:, last].contiguous()).detach().double()
        known = (
            process.basis.double() @ process.raw[:, last] + process.fresh.double() @ process.coupling[:, last]
        )
        difference = float(torch.linalg.vector_norm(product - known))
        if difference > torch.finfo(self.A.dtype).eps ** 0.5 * process.scale + 2 * process.drift:
            assert self.checkpoint is not None
            raise SettingError(
                f"The checkpoint {self.checkpoint.path} must be of this map",
                f"a product that differs by {difference / process.scale:.2g} of its norm",
                "Delete it to start again, or name another file.",
            )


def identify(
    A: LinearMap, settings: SearchSettings, generator: torch.Generator, start: Tensor | None
) -> dict[str, str | int | float | bool]:
    """What a checkpoint must agree in; the budget of products may differ."""
    return settings.wanted._asdict() | {
        "n": A.shape[0],
        "dtype": str(A.dtype),
        "tolerance": settings.tolerance,
        "block": settings.block,
        "capacity": settings.capacity,
        "certify": settings.certify,
        "seed": digest(generator.get_state()),
        "start": "drawn" if start is None else digest(start),
    }
