import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from torchstone.data.idx import read_idx
from torchstone.errors import DataError

KINDS = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array: np.ndarray, kind: str) -> bytes:
    header = bytes([0, 0, KINDS[kind], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(kind).tobytes()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (3, 0)])
def test_every_kind_of_number_comes_back(tmp_path, kind, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    if array.dtype.kind in "if" and array.size:
        array.flat[0] = -7
    tensor = read_idx(written(tmp_path / "a", idx(array, kind)))
    assert tuple(tensor.shape) == shape
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype


def test_gzip_is_known_by_its_content(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = written(tmp_path / "named-without-gz", gzip.compress(idx(array, "u1")))
    assert np.array_equal(read_idx(path).numpy(), array)
    assert np.array_equal(read_idx(written(tmp_path / "b.gz", idx(array, "u1"))).numpy(), array)


WHOLE = idx(np.arange(12).reshape(3, 4), "u1")
ZIPPED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "IDX header"),
        (b"\0\0\x08", "IDX header"),
        (b"PK\x03\x04" + WHOLE, "IDX header"),
        (b"\0\0\x07\x01" + WHOLE[4:], "IDX header"),
        (b"\0\0\x08\0", "IDX header"),
        (WHOLE[:9], "header that breaks off"),
        (WHOLE[:-1], "11 bytes for the shape"),
        (WHOLE + b"\0", "more than the 12 bytes"),
        (b"\0\0\x0e\x04" + b"\xff" * 16 + b"some", "4 bytes for the shape"),
        (ZIPPED[:-9], "whole gzip file"),
        (ZIPPED[:-8] + b"12345678", "whole gzip file"),
        (ZIPPED[:10] + b"\xff" * 30, "whole gzip file"),
        (gzip.compress(WHOLE[:-1], mtime=0), "11 bytes for the shape"),
        (gzip.compress(WHOLE + bytes(10**6), mtime=0), "more than the 12 bytes"),
    ],
    ids=[
        "empty",
        "half a header",
        "another format",
        "unknown kind",
        "no dimensions",
        "sizes cut",
        "array cut",
        "too long",
        "huge promise",
        "gzip cut",
        "gzip checksum",
        "gzip garbage",
        "zipped array cut",
        "zipped too long",
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = written(tmp_path / "damaged", content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert "damaged" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no-such-file"):
        read_idx(tmp_path / "no-such-file")
