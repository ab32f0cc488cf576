"""Where records go: JSON Lines by default."""

from torchstone.watching.loggers.base import Logger
from torchstone.watching.loggers.json_lines import JsonLines

__all__ = ["JsonLines", "Logger"]
