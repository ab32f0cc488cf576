"""Block-diagonal maps from the maps of their blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap


class BlockDiagonalMap(LinearMap):
    """The map diag(A_1, ..., A_k), such as a layer-wise approximation of a curvature matrix.

    Symmetric where every block is. `rows` and `columns` give the slice of each block, by its name or position.

    Cost of a product: one product of each block, with their accuracy.

    Args:
        blocks: Maps, or what `as_linear_map` takes, in order; a mapping names them. One dtype and device.

    Raises:
        SettingError: No block, or blocks of different dtypes or devices.

    >>> BlockDiagonalMap({"a": torch.ones(1, 1), "b": 2 * torch.ones(1, 2)}).to_dense()
    tensor([[1., 0., 0.],
            [0., 2., 2.]])
    """

    def __init__(self, blocks: Mapping[str, LinearMap | Any] | Sequence[LinearMap | Any]) -> None:
        named = dict(blocks) if isinstance(blocks, Mapping) else dict(enumerate(blocks))
        self.blocks: dict[str | int, LinearMap] = {
            name: as_linear_map(block) for name, block in named.items()
        }
        maps = list(self.blocks.values())
        if not maps or len({(block.dtype, block.device) for block in maps}) > 1:
            raise SettingError(
                "A block-diagonal map needs blocks, all of one dtype and device",
                ", ".join(map(repr, maps)) or "none",
                "Convert them.",
            )
        self.rows = _slices({name: block.shape[0] for name, block in self.blocks.items()})
        self.columns = _slices({name: block.shape[1] for name, block in self.blocks.items()})
        shape = (sum(block.shape[0] for block in maps), sum(block.shape[1] for block in maps))
        symmetric = all(block.symmetric for block in maps)
        super().__init__(shape, maps[0].dtype, maps[0].device, symmetric=symmetric)

    def _matvec(self, x: Tensor) -> Tensor:
        return torch.cat([block.matvec(x[self.columns[name]]) for name, block in self.blocks.items()])

    def _matmat(self, X: Tensor) -> Tensor:
        return torch.cat([block.matmat(X[self.columns[name]]) for name, block in self.blocks.items()])

    def _transpose(self) -> LinearMap:
        transposed = BlockDiagonalMap([block.T for block in self.blocks.values()])
        transposed.blocks = dict(zip(self.blocks, transposed.blocks.values(), strict=True))
        transposed.rows, transposed.columns = self.columns, self.rows
        return transposed


def _slices(sizes: dict[str | int, int]) -> dict[str | int, slice]:
    """Consecutive slices of these sizes."""
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = slice(start, start + size)
        start += size
    return found
