import base64
import math
import struct
import zlib

import pytest

from torchstone.details import Picture
from torchstone.report.picture import data_uri, png


def decode(data):
    """Width, height, colour type and rows of an unfiltered 8-bit PNG, checking every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            name + body
        )
        chunks[name], place = body, place + 12 + length
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + width * (3 if kind == 2 else 1)
    rows = [raw[i * stride : (i + 1) * stride] for i in range(height)]
    assert all(row[0] == 0 for row in rows)
    return width, height, kind, [list(row[1:]) for row in rows]


def test_grey_pixels_survive():
    assert decode(png(Picture("", 2, 3, (0, 0.2, 0.4, 0.6, 0.8, 1)), 256)) == (
        3,
        2,
        0,
        [[0, 51, 102], [153, 204, 255]],
    )


def test_colours_survive_and_are_clipped():
    picture = Picture("", 1, 2, (1, 0, 0.5, 2, -1, math.nan))
    assert decode(png(picture, 256)) == (2, 1, 2, [[255, 0, 128, 255, 0, 0]])


def test_large_pictures_are_thinned():
    width, height, _, rows = decode(png(Picture("", 100, 50, tuple(i / 5000 for i in range(5000))), 32))
    assert (width, height) == (13, 25)
    assert rows[1][1] == pytest.approx(255 * (4 * 50 + 4) / 5000, abs=0.6)


def test_data_uri():
    uri = data_uri(Picture("", 1, 1, (0.5,)))
    kind, _, body = uri.partition(",")
    assert kind == "data:image/png;base64"
    assert decode(base64.b64decode(body))[3] == [[128]]
    assert data_uri(Picture("", 0, 0, ())) == ""
