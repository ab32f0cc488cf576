"""Batches of any structure: count their examples, move them, take some of their rows.

A batch is a tensor, or a tuple, list, named tuple, mapping (dict, Hugging Face BatchEncoding) or dataclass of batches.
Anything else inside it (text, None, numbers) is carried along unchanged; lists of text with one entry an example are
sliced with the tensors.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import BatchError

Batch = Any


def map_tensors(function: Callable[[Tensor], Any], batch: Batch) -> Batch:
    """A batch of the same structure with `function` applied to every tensor (NumPy arrays become tensors first)."""
    if _is_numeric_array(batch):
        batch = _as_tensor(batch)
    if isinstance(batch, Tensor):
        return function(batch)
    return _rebuild(lambda part: map_tensors(function, part), batch)


def _is_numeric_array(part: Batch) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind in "fciub"


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array if array.flags.writeable else array.copy())


def _rebuild(visit: Callable[[Batch], Batch], batch: Batch) -> Batch:
    """A container of the same kind with every part visited; anything that is no container as it is."""
    if isinstance(batch, dict | UserDict):
        # Keeps the class (BatchEncoding, defaultdict). Other mappings might share their store with a shallow copy,
        # and writing to it would change the user's batch.
        changed = copy.copy(batch)
        for key in batch:
            changed[key] = visit(batch[key])
        return changed
    if isinstance(batch, Mapping):
        return {key: visit(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(visit(item) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)([visit(item) for item in batch])  # a list: torch.return_types refuse generators
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        changed = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(changed, field.name, visit(getattr(batch, field.name)))
        return changed
    return batch


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in a batch, in the order of its structure."""
    if isinstance(batch, Tensor):
        yield batch
    elif _is_numeric_array(batch):
        yield _as_tensor(batch)
    else:
        for part in parts(batch):
            yield from tensors(part)


def parts(batch: Batch) -> list[Batch]:
    """What a container holds; nothing for anything else."""
    if isinstance(batch, Mapping):
        return list(batch.values())
    if isinstance(batch, tuple | list):
        return list(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return []


def size(batch: Batch) -> int:
    """Number of examples: the leading dimension that all tensors share.

    Raises:
        BatchError: No tensor, or leading dimensions that differ.
    """
    lengths = [tensor.shape[0] for tensor in tensors(batch) if tensor.ndim > 0]
    if not lengths:
        raise BatchError(
            "A batch must hold at least one tensor with a leading dimension of examples",
            f"{type(batch).__name__} without one",
            "Collate the examples into tensors, or override Objective.size().",
        )
    if len(set(lengths)) > 1:
        raise BatchError(
            "All tensors of a batch must share their leading dimension, one row per example",
            f"leading dimensions {lengths}",
            "Make inputs and targets of one length; for other layouts override Objective.size() and .take().",
        )
    return lengths[0]


def take(batch: Batch, rows: Tensor) -> Batch:
    """The examples `rows` (a tensor of indices) of a batch."""
    count = size(batch)

    def pick(part: Batch) -> Batch:
        if _is_numeric_array(part):
            part = _as_tensor(part)
        if isinstance(part, Tensor):
            return part[rows.to(part.device)] if part.ndim > 0 else part
        if isinstance(part, np.ndarray):  # of text or objects
            return part[rows.cpu().numpy()] if part.shape[:1] == (count,) else part
        is_listing = type(part) in (list, tuple) and len(part) == count
        if is_listing and all(isinstance(item, str | int | float | None) for item in part):
            return type(part)(part[i] for i in rows.tolist())
        return _rebuild(pick, part)

    return pick(batch)


def move(batch: Batch, device: torch.device, dtype: torch.dtype | None) -> Batch:
    """The batch on `device`, its floating tensors as `dtype` (None keeps them). Integers keep their type."""

    def moved(tensor: Tensor) -> Tensor:
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=device, dtype=wanted)

    return map_tensors(moved, batch)


def bytes_of(batch: Batch) -> int:
    """Memory of a batch's tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(batch))


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same values, bit for bit (NaN equals NaN)."""
    left, right = list(tensors(first)), list(tensors(second))
    return len(left) == len(right) and all(same_bits(a, b) for a, b in zip(left, right, strict=True))


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape, type and bits."""
    if first.shape != second.shape or first.dtype != second.dtype or first.layout != second.layout:
        return False
    if first.layout in _SPARSE:
        parts = [[read(tensor.detach()) for read in _SPARSE[first.layout]] for tensor in (first, second)]
        return all(same_bits(a, b) for a, b in zip(*parts, strict=True))
    if first.numel() == 0:
        return True
    own = (tensor.detach().resolve_conj().resolve_neg() for tensor in (first, second))
    flat = [tensor.contiguous().reshape(-1) for tensor in own]
    # In the widest pieces that fit: byte by byte takes eight times as long.
    places = (flat[0].nbytes, *(one.storage_offset() * one.element_size() for one in flat))
    wide = next(size for size in _INTEGERS if all(place % size == 0 for place in places))
    return torch.equal(flat[0].view(_INTEGERS[wide]), flat[1].view(_INTEGERS[wide]))


_SPARSE: dict[torch.layout, tuple[Callable[[Tensor], Tensor], ...]] = {
    torch.sparse_coo: (Tensor._indices, Tensor._values),
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices, Tensor.values),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices, Tensor.values),
}
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def row_digests(batch: Batch) -> list[bytes]:
    """A short digest of each example, to compare two passes over the same data in whatever order."""
    import hashlib

    columns = [tensor.detach().cpu().contiguous() for tensor in tensors(batch) if tensor.ndim > 0]
    digests = []
    for row in range(size(batch)):
        digest = hashlib.blake2b(digest_size=8)
        for column in columns:
            digest.update(column[row].reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        digests.append(digest.digest())
    return digests
