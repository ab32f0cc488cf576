"""Small images as PNG data URIs, written by hand: the format needs a header, a deflate stream and checksums."""

from __future__ import annotations

import base64
import math
import struct
import zlib

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
    rows, columns = range(0, picture.height, step), range(0, picture.width, step)
    raw = bytearray()
    for i in rows:
        raw.append(0)  # filter type: none
        for j in columns:
            start = (i * picture.width + j) * channels
            raw.extend(_byte(value) for value in picture.pixels[start : start + channels])
    kind = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", len(columns), len(rows), 8, kind, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(raw), 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _byte(value: float) -> int:
    return round(255 * min(max(value, 0.0), 1.0)) if not math.isnan(value) else 0


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
