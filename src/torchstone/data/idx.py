"""The IDX format of the MNIST family: a big-endian header and one array, possibly gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import DataError

_KINDS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Tensor:
    """The array in an IDX file, `.gz` or plain.

    The header is two zero bytes, one byte for the kind of number, one for the number of dimensions, and each dimension
    as an unsigned 32-bit number; the array follows row by row. No more than the header promises is unpacked.

    Args:
        path: The file; gzipped where its first two bytes say so, whatever its name.

    Returns:
        A tensor of the file's shape and kind of number.

    Raises:
        DataError: No such file, no IDX header, or another length than the header says.

    Source: LeCun, Cortes & Burges, The MNIST database, "File formats".
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("read_idx needs an existing file", str(path), "Check the path.")
    try:
        with path.open("rb") as probe:
            is_gzip = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
            return _parse(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} must be a whole gzip file", str(error), "Download it again.") from error


def _parse(file: gzip.GzipFile | BinaryIO, path: Path) -> Tensor:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _KINDS or head[3] == 0:
        raise DataError(
            f"{path} must begin with an IDX header", head.hex(" ") or "an empty file", "Check the file."
        )
    kind, dimensions = np.dtype(_KINDS[head[2]]), head[3]
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _length(path, "a header that breaks off")
    shape = struct.unpack(f">{dimensions}I", sizes)
    promised = math.prod(shape) * kind.itemsize
    # A false header may promise more than memory holds, so what is there is read piece by piece.
    pieces, missing = [], promised
    while missing and (piece := file.read(min(missing, 2**24))):
        pieces.append(piece)
        missing -= len(piece)
    if missing:
        raise _length(path, f"{promised - missing} bytes for the shape {shape}, which takes {promised}")
    if file.read(1):
        raise _length(path, f"more than the {promised} bytes of the shape {shape}")
    array = np.frombuffer(b"".join(pieces), dtype=kind).reshape(shape)
    return torch.from_numpy(array.astype(kind.newbyteorder("=")))


def _length(path: Path, got: str) -> DataError:
    return DataError(f"{path} must be as long as its header says", got, "Download it again.")
