"""States along a training run, wherever they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from torchstone.errors import DataError


def read_state(entry: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    """A state: itself, or what a safetensors file holds.

    Raises:
        DataError: The file is missing or no safetensors file.
    """
    if isinstance(entry, Mapping):
        return entry
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(entry)
    except (OSError, SafetensorError) as error:
        raise DataError(
            "A checkpoint of Recipe.trajectory must be a state or the path of a safetensors file",
            f"{entry} ({type(error).__name__}: {error})",
            "Write it with safetensors.torch.save_file(model.state_dict(), path).",
        ) from error
