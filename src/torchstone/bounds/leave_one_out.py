r"""Cross-validation of ridge regression in closed form: one fit instead of n.

With the hat matrix H, :math:`\hat y = H y`, and residuals e, the prediction errors of the fits without a fold S are

.. math:: e_{-S} = (I - H_{SS})^{-1} e_S, \qquad e_{-i} = \frac{e_i}{1 - h_{ii}} \text{ for one example.}

*Why*: replacing the targets of S by the predictions of the fit without S does not move that fit, so
:math:`\hat y_{-S} = (H y)_S + H_{SS} (\hat y_{-S} - y_S)`. It needs a fit that is linear in y with a fixed penalty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_at_least
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class RidgeFit:
    r"""A ridge regression on its own sample, ready to be cross-validated: :math:`\min \|y - Xw - b\|^2 + \alpha \|w\|^2`.

    Args:
        residuals: :math:`y - \hat y`, (n, m).
        basis: U and d with :math:`H = U\, diag(d)\, U^\top`: orthonormal columns (n, r).
        shrinkage: d, (r,), in [0, 1].
        penalty: :math:`\alpha`.
    """

    residuals: Tensor
    basis: Tensor
    shrinkage: Tensor
    penalty: float

    @property
    def leverages(self) -> Tensor:
        """Diagonal of H, (n,): how far each prediction follows its own target."""
        return (self.basis.square() * self.shrinkage).sum(1)

    @property
    def effective_parameters(self) -> float:
        """Trace of H: degrees of freedom of the fit, the intercept included."""
        return float(self.shrinkage.sum())

    @property
    def generalised_cross_validation(self) -> float:
        r"""Mean squared error with every leverage replaced by their mean: :math:`\frac1n \sum e_i^2 / (1 - tr H / n)^2`."""
        room = 1 - self.effective_parameters / len(self.residuals)
        return float(self.residuals.square().mean()) / room**2 if room > 1e-12 else math.inf


def ridge_fit(x: Tensor, y: Tensor, penalty: float, intercept: bool = True) -> RidgeFit:
    r"""Fit ridge regression and keep what cross-validation needs.

    Cost: one singular value decomposition of x, O(n d min(n, d)); memory of x.

    Args:
        x: Inputs or features (n, d), n >= 2; computed in float64.
        y: Targets (n,) or (n, m).
        penalty: :math:`\alpha \ge 0`, of the sum of squares as in scikit-learn's `Ridge`.
        intercept: Whether an offset without penalty is fitted.

    Returns:
        The fit.

    Raises:
        SettingError: Shapes that do not match, or a negative penalty.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> x = torch.arange(5.0)[:, None]
        >>> fit = ridge_fit(x, 2 * x[:, 0] + 1, penalty=0.0)
        >>> round(fit.effective_parameters, 9), bool(fit.residuals.abs().max() < 1e-9)
        (2.0, True)

    Source: Hoerl & Kennard 1970.
    """
    check_at_least("penalty", penalty)
    if x.ndim != 2 or len(x) < 2 or y.ndim not in (1, 2) or len(y) != len(x):
        raise SettingError(
            "ridge_fit needs inputs (n, d) and targets (n,) or (n, m), n >= 2",
            f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
            "Flatten the inputs.",
        )
    inputs, targets = x.detach().double(), y.detach().double().reshape(len(y), -1)
    if not (bool(torch.isfinite(inputs).all()) and bool(torch.isfinite(targets).all())):
        raise NumericalError("ridge_fit needs finite numbers", "NaN or infinity", "Remove them.")
    n = len(inputs)
    if intercept:
        inputs = inputs - inputs.mean(0)
    u, s, _ = torch.linalg.svd(inputs, full_matrices=False)
    kept = s > s.max() * max(inputs.shape) * torch.finfo(torch.float64).eps if len(s) else s > 0
    basis, shrinkage = u[:, kept], s[kept].square() / (s[kept].square() + penalty)
    if intercept:
        basis = torch.cat([torch.full((n, 1), n**-0.5, dtype=torch.float64, device=basis.device), basis], 1)
        shrinkage = torch.cat([torch.ones(1, dtype=torch.float64, device=basis.device), shrinkage])
    residuals = targets - basis @ (shrinkage[:, None] * (basis.T @ targets))
    return RidgeFit(residuals, basis, shrinkage, float(penalty))


def leave_one_out_residuals(fit: RidgeFit) -> Tensor:
    r"""Errors of the n fits that each leave one example out, :math:`e_i / (1 - h_{ii})`, exactly.

    Cost: none beyond the fit.

    Args:
        fit: From `ridge_fit`.

    Returns:
        :math:`y_i - \hat y_{-i}(x_i)`, (n, m). They are neither independent nor identically distributed given the data.

    Raises:
        NumericalError: An example that determines its own prediction (leverage 1): without it the fit is not unique.

    Example:
        >>> import torch
        >>> fit = ridge_fit(torch.zeros(3, 1), torch.tensor([0.0, 0.0, 3.0]), penalty=1.0)  # predicts the mean
        >>> leave_one_out_residuals(fit)[:, 0].round(decimals=6).tolist()
        [-1.5, -1.5, 3.0]

    Source: Allen 1974 (PRESS); Golub, Heath & Wahba 1979, section 2.
    """
    room = 1 - fit.leverages
    if float(room.min()) < 1e-12:
        raise NumericalError(
            "Leaving one out needs leverages below 1",
            f"1 - h = {float(room.min()):.1e} for example {int(room.argmin())}",
            "Use a positive penalty, or fewer features than examples.",
        )
    return fit.residuals / room[:, None]


def k_fold_residuals(fit: RidgeFit, folds: Sequence[Tensor]) -> Tensor:
    r"""Errors of the fits that each leave a fold out, :math:`(I - H_{SS})^{-1} e_S`, exactly.

    Cost: one linear system of each fold's size.

    Args:
        fit: From `ridge_fit`.
        folds: Indices of each fold; together every example once.

    Returns:
        Errors of every example by the fit without its fold, (n, m).

    Raises:
        SettingError: Folds that are no partition.
        NumericalError: A fold without which the fit is not unique.

    Source: Golub, Heath & Wahba 1979, for folds of one; the identity in the module for any.
    """
    together = torch.cat(list(folds)).sort().values if folds else torch.empty(0, dtype=torch.long)
    if not torch.equal(together.cpu(), torch.arange(len(fit.residuals))):
        raise SettingError(
            "Folds must hold every example exactly once",
            f"{len(together)} indices for {len(fit.residuals)} examples",
            "Use torch.randperm(n, generator=g).chunk(k).",
        )
    found = torch.empty_like(fit.residuals)
    for fold in folds:
        part = fit.basis[fold]
        room = torch.eye(len(fold), dtype=part.dtype, device=part.device) - (part * fit.shrinkage) @ part.T
        if float(torch.linalg.eigvalsh(room)[0]) < 1e-12:
            raise NumericalError(
                "Leaving a fold out needs a unique fit to the rest",
                f"I - H is singular on a fold of {len(fold)}",
                "Use a positive penalty, or fewer features than examples.",
            )
        found[fold] = torch.linalg.solve(room, fit.residuals[fold])
    return found
