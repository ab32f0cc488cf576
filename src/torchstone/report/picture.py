"""Small images as PNG data URIs, written by hand: the format needs a header, a deflate stream and checksums."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import numpy as np

from torchstone.details import Picture


def data_uri(picture: Picture, most_pixels: int = 256) -> str:
    """The picture as `data:image/png;base64,...`; larger ones keep every k-th row and column. Empty if it has no pixels."""
    if not picture.pixels:
        return ""
    return "data:image/png;base64," + base64.b64encode(png(picture, most_pixels)).decode("ascii")


def png(picture: Picture, most_pixels: int) -> bytes:
    """An 8-bit PNG, grey or RGB (ISO/IEC 15948, sections 5 and 11). Values are clipped to [0, 1]; NaN is black."""
    channels = len(picture.pixels) // (picture.height * picture.width)
    step = math.ceil(max(picture.height, picture.width) / most_pixels)
    pixels = np.reshape(picture.pixels, (picture.height, picture.width, channels))[::step, ::step]
    levels = np.rint(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)
    rows, columns = levels.shape[:2]
    # Each row starts with its filter type, 0 for none.
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), levels.reshape(rows, -1)], axis=1).tobytes()
    kind = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
