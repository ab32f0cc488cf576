"""How often a transposed convolution writes each output: where its checkerboards come from."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import SettingError


def overlap_counts(inputs: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> Tensor:
    r"""Number of products that enter each output of a transposed convolution along one axis, int64 (outputs,).

    Output o (counted before the padding is cut off) gets one product for each input i and tap t with
    o = i stride + t dilation, 0 <= i < inputs, 0 <= t < kernel. Away from the borders, without dilation, it is
    floor(kernel / stride), and one more where o mod stride < kernel mod stride: a checkerboard unless the stride divides
    the kernel. In two dimensions counts multiply.

    Args:
        inputs: Length of the input.
        kernel: Taps.
        stride: Step between inputs.
        padding: Outputs cut off at either end.
        dilation: Step between taps.

    Raises:
        SettingError: A setting out of range, or no output left.

    >>> overlap_counts(4, 3, 2).tolist(), overlap_counts(4, 4, 2).tolist()
    ([1, 1, 2, 1, 2, 1, 2, 1, 1], [1, 1, 2, 2, 2, 2, 2, 2, 1, 1])

    Source: Odena, Dumoulin & Olah 2016, Deconvolution and Checkerboard Artifacts; Dumoulin & Visin 2016, section 4.
    """
    if min(inputs, kernel, stride, dilation) < 1:
        raise SettingError(
            "inputs, kernel, stride and dilation must be at least 1",
            f"{inputs}, {kernel}, {stride}, {dilation}",
            "Correct them.",
        )
    if padding < 0:
        raise SettingError("padding must be 0 or more", str(padding), "Correct it.")
    length = (inputs - 1) * stride + dilation * (kernel - 1) + 1
    if length <= 2 * padding:
        raise SettingError(
            "The padding leaves no output", f"{length} outputs, {padding} cut off at either end", "Lower it."
        )
    taps = torch.arange(kernel) * dilation
    written = (torch.arange(inputs)[:, None] * stride + taps).flatten()
    return torch.bincount(written, minlength=length)[padding : length - padding]
