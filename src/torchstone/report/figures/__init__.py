"""Details as Plotly figures, one file a kind."""

from torchstone.report.figures.drawing import figure

__all__ = ["figure"]
