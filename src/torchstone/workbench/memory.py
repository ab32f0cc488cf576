"""A memo under a memory budget: least recently used entries go first, and are computed again when asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from torchstone import batches


class Memory:
    """Remembers results by key, within `budget` bytes of tensors.

    A result larger than the whole budget is returned but not kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result stored under `key`, made on first use."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        value = make()
        size = batches.bytes_of(value)
        if size <= self.budget:
            self._entries[key] = (value, size)
            self.used += size
            while self.used > self.budget:
                _, (_, freed) = self._entries.popitem(last=False)
                self.used -= freed
        return value

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries
