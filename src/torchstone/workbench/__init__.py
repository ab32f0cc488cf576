"""Shared work of an examination: what several instruments need is computed once, under a memory budget."""

from torchstone.workbench.workbench import Workbench

__all__ = ["Workbench"]
