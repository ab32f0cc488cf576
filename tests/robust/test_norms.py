from __future__ import annotations

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.robust.norms import distances, dual_lengths, flat, lengths, steepest


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3), (5, 1, 4, 4), (0, 3), (0, 2, 2)])
def test_lengths_match_vector_norms_for_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = flat(x)
    assert torch.allclose(lengths(x, "l2"), torch.linalg.vector_norm(rows, dim=1), rtol=1e-14)
    assert torch.equal(lengths(x, "linf"), torch.linalg.vector_norm(rows, torch.inf, dim=1))


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_lengths_neither_overflow_nor_vanish(size: float) -> None:
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64) * size
    assert lengths(x, "l2").item() == pytest.approx(5 * size, rel=1e-14)
    assert torch.allclose(steepest(x, "l2"), torch.tensor([[0.6, 0.8]], dtype=torch.float64), rtol=1e-14)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_steepest_direction_attains_the_dual_norm(norm) -> None:
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(30, 2, 5, generator=generator, dtype=torch.float64)
    v = steepest(g, norm)
    assert torch.allclose((flat(g) * flat(v)).sum(1), dual_lengths(g, norm), rtol=1e-13)
    assert torch.allclose(lengths(v, norm), torch.ones(30, dtype=torch.float64), rtol=1e-13)
    # No other direction of unit norm does better.
    other = torch.randn(2000, 30, 10, generator=generator, dtype=torch.float64)
    other = other / other.norm(dim=2, keepdim=True) if norm == "l2" else other.sign()
    assert bool(((flat(g) * other).sum(2) <= dual_lengths(g, norm) + 1e-12).all())


def test_single_precision_gradients_below_the_square_root_of_the_smallest_float_keep_their_direction() -> (
    None
):
    g = torch.tensor([[1e-30, 0.0], [0.0, 0.0]])
    assert steepest(g, "l2").tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bad_entries_of_a_gradient_do_not_spoil_the_rest(norm) -> None:
    g = torch.tensor([[torch.nan, 2.0], [torch.inf, -2.0]])
    assert steepest(g, norm).tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_distances_of_bfloat16_inputs_are_exact() -> None:
    a = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    assert distances(a, a + 0.5, "l2").item() == pytest.approx(0.5**0.5, rel=1e-15)


def test_unknown_norms_are_refused() -> None:
    with pytest.raises(SettingError, match='norm must be "linf" or "l2"; got \'l3\''):
        lengths(torch.ones(1, 2), "l3")  # pyright: ignore[reportArgumentType]
