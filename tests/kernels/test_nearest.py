"""Nearest neighbours against a full sort of directly computed distances, with ties, cancellation and tight memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.nearest import majority_vote, nearest_neighbours


def by_sorting(queries: Tensor, points: Tensor, k: int, alone: bool = False) -> tuple[Tensor, Tensor]:
    distances = (queries.double()[:, None] - points.double()[None]).square().sum(2).sqrt()
    if alone:
        distances.fill_diagonal_(math.inf)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return distances.gather(1, order), order


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_agrees_with_a_full_sort(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    queries, points = (torch.randn(n, 7, generator=generator).to(dtype) for n in (30, 40))
    found, (distances, indices) = nearest_neighbours(queries, points, k), by_sorting(queries, points, k)
    assert torch.equal(found.indices, indices)
    assert torch.allclose(found.distances, distances, rtol=1e-14, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_ties_go_to_the_lower_index_however_the_work_is_cut(
    n: int, d: int, levels: int, k: int, seed: int, single: bool
) -> None:
    # Few integer levels: nearly all distances are tied, many points are duplicates.
    x = torch.randint(levels + 1, (n, d), generator=torch.Generator().manual_seed(seed))
    x = x.float() if single else x.double()
    k = min(k, n - 1)
    distances, indices = by_sorting(x, x, k, alone=True)
    for memory in (1, 10_000, 2**28):
        found = nearest_neighbours(x, k=k, memory_bytes=memory)
        assert torch.equal(found.indices, indices)
        assert torch.equal(found.distances, distances)


def test_cancellation_does_not_change_the_order() -> None:
    # Far from the origin and from their mean, the Gram form alone keeps no digit of these distances.
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64) * 1e-9
    x[100:] += 1e4
    x[:100] -= 1e4
    found, (distances, indices) = nearest_neighbours(x, k=4), by_sorting(x, x, 4, alone=True)
    assert torch.equal(found.indices, indices)
    assert torch.allclose(found.distances, distances, rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_extreme_scales_neither_overflow_nor_vanish(scale: float) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found, unit = nearest_neighbours(x * scale, k=3), nearest_neighbours(x, k=3)
    assert torch.equal(found.indices, unit.indices)
    assert torch.allclose(found.distances / scale, unit.distances, rtol=1e-12, atol=0)
    single = nearest_neighbours((x * 1e-38).float(), k=3)
    assert float(single.distances.min()) > 0


def test_duplicates_are_at_distance_zero_and_one_is_not_its_own_neighbour() -> None:
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(4)) + 10
    x[200] = x[17]
    found = nearest_neighbours(x, k=1)
    assert (int(found.indices[17, 0]), int(found.indices[200, 0])) == (200, 17)
    assert float(found.distances[17, 0]) == float(found.distances[200, 0]) == 0.0
    assert not bool((found.indices[:, 0] == torch.arange(300)).any())
    same = nearest_neighbours(torch.ones(150, 5), k=3)
    assert same.indices[[0, 1, 149]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 2]]


def test_cosine_agrees_with_scipy_and_ignores_scale() -> None:
    generator = torch.Generator().manual_seed(5)
    queries, points = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (20, 60))
    found = nearest_neighbours(queries, points, 5, metric="cosine")
    distances = torch.from_numpy(cdist(queries.numpy(), points.numpy(), "cosine")).sort(dim=1)
    assert torch.equal(found.indices, distances.indices[:, :5])
    assert torch.allclose(found.distances, distances.values[:, :5], rtol=0, atol=1e-14)
    factors = torch.logspace(-200, 200, 60, dtype=torch.float64)[:, None]
    assert torch.equal(
        nearest_neighbours(queries, points * factors, 5, metric="cosine").indices, found.indices
    )


def test_reduced_precision_products_are_not_trusted() -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(6)) + 5
    expected = by_sorting(x, x, 3, alone=True)[1]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(nearest_neighbours(x, k=3).indices, expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_real_images() -> None:
    x = torch.from_numpy(load_digits(return_X_y=True)[0][:500]).float()
    found = nearest_neighbours(x, k=5, memory_bytes=2**20)
    distances, indices = by_sorting(x, x, 5, alone=True)
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.distances, distances)


def test_majority_vote_by_counting() -> None:
    labels = torch.randint(4, (200, 6), generator=torch.Generator().manual_seed(7))
    for row, winner in zip(labels.tolist(), majority_vote(labels, 4).tolist(), strict=True):
        assert winner == max(row, key=lambda c: (row.count(c), -row.index(c)))


def test_bad_inputs_are_refused() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(SettingError, match="between 1 and the 2 points"):
        nearest_neighbours(x, k=3)
    with pytest.raises(SettingError, match="between 1 and the 3 points"):
        nearest_neighbours(x, x, k=0)
    with pytest.raises(SettingError, match="same number of features"):
        nearest_neighbours(x, torch.ones(3, 4))
    with pytest.raises(SettingError, match="floating point"):
        nearest_neighbours(torch.ones(3, 2, dtype=torch.long))
    with pytest.raises(SettingError, match="N >= 1"):
        nearest_neighbours(torch.ones(0, 2), x)
    with pytest.raises(SettingError, match="metric must be"):
        nearest_neighbours(x, metric="manhattan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(NumericalError, match="points must be finite"):
        nearest_neighbours(x, x * math.nan)
    with pytest.raises(NumericalError, match="1 zero rows"):
        nearest_neighbours(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), metric="cosine")
