"""Batches of any structure."""

from __future__ import annotations

import warnings
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone import batches
from torchstone.errors import BatchError

Point = namedtuple("Point", ["x", "y"])


@dataclass(frozen=True)
class Pair:
    x: Tensor
    y: Tensor
    name: str = "pair"


def rows(count: int) -> Tensor:
    return torch.arange(count * 3, dtype=torch.float32).reshape(count, 3)


def structures(count: int) -> list[Any]:
    x, y = rows(count), torch.arange(count)
    listed = defaultdict(list, {"x": x, "y": y})
    return [
        x,
        (x, y),
        [x, {"y": y}],
        {"x": x, "deep": (y, [x])},
        OrderedDict(x=x, y=y),
        UserDict(x=x, y=y),
        listed,
        Point(x, y),
        Pair(x, y),
        {"x": x.numpy(), "text": [str(i) for i in range(count)], "none": None, "number": 3},
    ]


@given(count=st.integers(1, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_structure_is_counted_sliced_and_rebuilt(count: int, data: st.DataObject) -> None:
    chosen = data.draw(
        st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True).map(sorted)
    )
    index = torch.tensor(chosen)
    for batch in structures(count):
        assert batches.size(batch) == count
        part = batches.take(batch, index)
        assert type(part) is type(batch)
        assert batches.size(part) == len(chosen)
        first = next(batches.tensors(part))
        assert torch.equal(first, rows(count)[index])
        assert batches.same(batches.take(batch, torch.arange(count)), batch)


def test_text_is_sliced_with_its_examples_and_the_rest_is_kept() -> None:
    part = batches.take(structures(4)[-1], torch.tensor([1, 3]))
    assert part["text"] == ["1", "3"]
    assert part["none"] is None
    assert part["number"] == 3


def test_the_original_is_left_alone() -> None:
    for batch in structures(3):
        before = [tensor.clone() for tensor in batches.tensors(batch)]
        batches.map_tensors(lambda tensor: tensor + 1, batch)
        batches.take(batch, torch.tensor([0]))
        assert all(torch.equal(a, b) for a, b in zip(before, batches.tensors(batch), strict=True))


def test_moving_casts_floats_only() -> None:
    moved = batches.move((rows(2), torch.arange(2)), torch.device("cpu"), torch.bfloat16)
    assert moved[0].dtype == torch.bfloat16
    assert moved[1].dtype == torch.int64
    assert batches.move(rows(2), torch.device("cpu"), None).dtype == torch.float32


@pytest.mark.parametrize(
    "batch", [(torch.zeros(3, 2), torch.zeros(4)), {"x": torch.zeros(2), "y": torch.zeros(1)}]
)
def test_ragged_examples_are_refused(batch: Any) -> None:
    with pytest.raises(BatchError, match="share their leading dimension"):
        batches.size(batch)


@pytest.mark.parametrize("batch", [None, "text", {}, (torch.tensor(1.0),)])
def test_nothing_to_count_is_refused(batch: Any) -> None:
    with pytest.raises(BatchError, match="at least one tensor"):
        batches.size(batch)


def test_bits() -> None:
    nan, zero = torch.tensor([float("nan"), 0.0]), torch.tensor([float("nan"), -0.0])
    assert batches.same_bits(nan, nan.clone())
    assert not batches.same_bits(nan, zero)  # 0.0 and -0.0 differ
    assert not batches.same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert batches.same_bits(torch.zeros(0), torch.zeros(0))
    assert batches.same_bits(torch.tensor(True), torch.tensor(True))
    assert not batches.same_bits(torch.tensor(True), torch.tensor(False))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bfloat16, torch.float32, torch.complex128])
@pytest.mark.parametrize("count", [1, 7, 8])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_bits_of_parts_of_memory(dtype: torch.dtype, count: int, start: int) -> None:
    """Wherever a part begins and whatever it holds, one changed number is seen, and none outside."""
    memory = torch.arange(40).to(dtype)
    part, other = memory[start : start + count], memory.clone()[start : start + count]
    assert batches.same_bits(part, other)
    memory[start + count], memory[39] = 0, 0
    assert batches.same_bits(part, other)
    for place in range(count):
        changed = other.clone()
        changed[place] += 1
        assert not batches.same_bits(part, changed)
        assert not batches.same_bits(changed, part)
    assert batches.same_bits(memory[::2], memory.clone()[::2])


def test_bits_of_views_that_conjugate_or_negate() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert batches.same_bits(z.conj(), z.conj().resolve_conj())
    assert not batches.same_bits(z.conj(), z)
    assert batches.same_bits(z.conj().imag, -z.imag)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_bits_of_sparse_tensors(layout: torch.layout) -> None:
    dense = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls compressed layouts a beta
        one, other, moved = (t.to_sparse(layout=layout) for t in (dense, dense.clone(), dense.flip(1)))
        assert batches.same_bits(one, other)
        assert not batches.same_bits(one, moved)
        assert not batches.same_bits(one, 2 * other)
    assert not batches.same_bits(one, dense)


def test_row_digests_see_the_order_of_examples() -> None:
    x = rows(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    first, second = batches.row_digests((x, np.arange(5))), batches.row_digests((x[order], order.numpy()))
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 5
