"""Watching inside the trainers of other packages."""

from torchstone.watching.callbacks.huggingface import huggingface_callback
from torchstone.watching.callbacks.lightning import lightning_callback

__all__ = ["huggingface_callback", "lightning_callback"]
