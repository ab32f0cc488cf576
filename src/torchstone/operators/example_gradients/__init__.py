"""Gradients of single examples from what the autograd graph holds: activations and back-propagated signals.

The rules exist once, here. For a batch with outputs f and parameters by name:

    gradients = BatchGradients.of(specimen, f, parameters)   # sorted by rule; `.loose` have none
    signals = gradients.signals(cotangent)                   # one backward pass: d (cotangent . f) at every layer's output
    rows = rows_of(gradients.ruled[name], signals)           # J_n^T s_n in one parameter, (N, C = 1), as factors
    rows = joined([rows, ...])                               # several cotangents an example, (N, C)
    gram_of(rows, other_rows)                                # (N, C, M, D) inner products, in float64

`outer` holds layers whose gradient is a sum of outer products (dense, convolution, embedding), `direct` those whose
gradient is the signal times something (bias, normalisation, scale), `vmapped` forms the gradients of any other use.
"""

from torchstone.operators.example_gradients.batch import BatchGradients
from torchstone.operators.example_gradients.gradients import ExampleGradients
from torchstone.operators.example_gradients.gram import gram_of
from torchstone.operators.example_gradients.layout import draw_scales
from torchstone.operators.example_gradients.norms import ExampleNorms
from torchstone.operators.example_gradients.rows import FormedRows, OuterRows, Rows, joined, rows_of
from torchstone.operators.example_gradients.uses import find_uses
from torchstone.operators.example_gradients.vmapped import vmapped_norms

__all__ = [
    "BatchGradients",
    "ExampleGradients",
    "ExampleNorms",
    "FormedRows",
    "OuterRows",
    "Rows",
    "draw_scales",
    "find_uses",
    "gram_of",
    "joined",
    "rows_of",
    "vmapped_norms",
]
