"""The tangent kernel keeps the memory that it was given, and says the least it needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone.errors import MemoryBudgetError
from torchstone.operators import ntk, ntk_plan


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


NETWORKS: dict[str, tuple[Callable[[Any], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda _: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,)),
    "convolution": (
        lambda _: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), *head(18)
        ),
        (2, 5, 5),
    ),
    "few pixels, many channels": (
        lambda _: nn.Sequential(nn.Conv2d(2, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 20, 2), *head(20)),
        (2, 2, 2),
    ),
    "lstm": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x)[0][:, -1]), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)
        ),
        (5, 3),
    ),
    "bilinear": (
        lambda written: written(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3)),
        (4,),
    ),
}


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside hold at one time; views of outer tensors do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._now, self._seen = 0, 0, weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outer = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {storage.data_ptr() for storage in outer}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        known = {id(one) for one in self._seen}
        if id(storage) in known:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self._now += size
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self._now -= size


def test_the_peak_meter_sees_what_lives_at_once() -> None:
    with Peak() as peak:
        total = torch.zeros(())
        for _ in range(3):
            first = torch.zeros(1000)
            total = total + (first + 1).sum()
            del first
        assert total == 3000
    assert 8000 <= peak.bytes <= 8100


@pytest.mark.parametrize("name", ["mlp", "convolution", "few pixels, many channels", "lstm", "bilinear"])
def test_the_budget_is_kept_and_changes_nothing(name: str, randomised: Any, close: Any, written: Any) -> None:
    make, shape = NETWORKS[name]
    model, x = randomised(make(written)), randn(5, *shape, seed=7)
    other = randn(3, *shape, seed=8)
    for second, factors in ((None, (1, 4)), (other, (2,))):
        whole = ntk(model, x, second)
        least = ntk_plan(model, x, second).least_bytes
        for budget in [factor * least for factor in factors]:
            plan = ntk_plan(model, x, second, memory_bytes=budget)
            assert plan.peak_bytes <= budget
            with Peak() as peak:
                small = ntk(model, x, second, memory_bytes=budget)
            assert peak.bytes <= plan.peak_bytes
            close(small.values, whole.values)
        with pytest.raises(MemoryBudgetError, match=f"must be at least {least:,}"):
            ntk(model, x, second, memory_bytes=least - 1)


def test_larger_networks_keep_their_budget() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                          nn.MaxPool2d(2), *head(512)[:1], nn.Linear(512, 280), nn.ReLU(), nn.Linear(280, 10))  # fmt: skip
    x = torch.randn(60, 1, 8, 8, generator=generator())
    for outputs in ("all", "trace"):
        plan = ntk_plan(model, x, outputs=outputs, memory_bytes=30_000_000)
        with Peak() as peak:
            ntk(model, x, outputs=outputs, memory_bytes=30_000_000)
        assert 0.2 * plan.peak_bytes < peak.bytes <= plan.peak_bytes <= 30_000_000
