"""A square root of the covariance of a categorical variable, with no more columns than its rank."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def multinomial_root(p: Float[Tensor, "... c"]) -> Float[Tensor, "... c r"]:
    r"""The Cholesky factor L of diag(p) - p p^T in closed form, without its last column, which is zero: r = C - 1.

    With tail sums q_j = sum_{i > j} p_i: L_jj = sqrt(p_j q_j / q_{j-1}) and L_ij = -p_i sqrt(p_j / (q_{j-1} q_j)) for i > j.
    There is no cancellation, so small probabilities keep their relative precision. Columns behind which no probability is left are zero.

    Args:
        p: Probabilities, which add up to 1.

    Source: Tanabe & Sagae 1992, JRSS B 54(1), theorem 1.
    """
    tails = p.flip(-1).cumsum(-1).flip(-1)  # p_j + q_j
    before, after = tails[..., :-1], tails[..., 1:]
    share = torch.where(before > 0, p[..., :-1] / before, torch.zeros_like(before)).sqrt()
    left = after.sqrt()
    inverse = torch.where(after > 0, 1 / left, torch.zeros_like(left))
    below = -(p[..., :, None] * inverse[..., None, :]) * share[..., None, :]
    diagonal = (share * left)[..., None, :]
    column = torch.arange(p.shape[-1] - 1, device=p.device)
    row = torch.arange(p.shape[-1], device=p.device)[:, None]
    zero = torch.zeros_like(below)
    return torch.where(row > column, below, torch.where(row == column, diagonal, zero))
