"""A run watched in a browser while it goes on."""

from torchstone.watching.live.server import LiveServer

__all__ = ["LiveServer"]
