"""Closed forms of cross-validation against refitting, by scikit-learn and by linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from torch import Tensor

from torchstone.bounds.leave_one_out import RidgeFit, k_fold_residuals, leave_one_out_residuals, ridge_fit
from torchstone.errors import NumericalError, SettingError


def problem(n: int, d: int, targets: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 3  # the offset matters
    y = x[:, :1] + torch.randn(n, targets, generator=generator, dtype=torch.float64)
    return x, y


def refitted(x: Tensor, y: Tensor, folds: list[Tensor], penalty: float, intercept: bool) -> Tensor:
    found = torch.empty_like(y)
    for fold in folds:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[fold] = False
        model = Ridge(alpha=penalty, fit_intercept=intercept, solver="svd" if penalty else "auto")
        model.fit(x[kept].numpy(), y[kept].numpy())
        found[fold] = y[fold] - torch.from_numpy(model.predict(x[fold].numpy()))
    return found


@pytest.mark.parametrize(("n", "d"), [(12, 3), (9, 20), (25, 24)])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [0.01, 5.0])
def test_leave_one_out_equals_brute_force(n: int, d: int, intercept: bool, penalty: float) -> None:
    x, y = problem(n, d)
    found = leave_one_out_residuals(ridge_fit(x, y, penalty, intercept))
    brute = refitted(x, y, [torch.tensor([i]) for i in range(n)], penalty, intercept)
    assert float((found - brute).abs().max()) < 1e-10


def test_least_squares_without_penalty() -> None:
    x, y = problem(15, 4)
    found = leave_one_out_residuals(ridge_fit(x, y, 0.0))
    ones = torch.ones(15, 1, dtype=torch.float64)
    design = torch.cat([ones, x], 1)
    for i in range(15):
        kept = torch.arange(15) != i
        weights = torch.linalg.lstsq(design[kept], y[kept]).solution
        assert torch.allclose(found[i], y[i] - design[i] @ weights, atol=1e-10)


@pytest.mark.parametrize("folds", [2, 5])
def test_k_fold_equals_brute_force(folds: int) -> None:
    x, y = problem(23, 30)
    parts = list(torch.randperm(23, generator=torch.Generator().manual_seed(0)).chunk(folds))
    found = k_fold_residuals(ridge_fit(x, y, 0.7), parts)
    assert float((found - refitted(x, y, parts, 0.7, True)).abs().max()) < 1e-10


def test_folds_of_one_are_leave_one_out() -> None:
    fit = ridge_fit(*problem(10, 4), penalty=0.3)
    singles = list(torch.arange(10).split(1))
    assert torch.allclose(k_fold_residuals(fit, singles), leave_one_out_residuals(fit), atol=1e-12)


def test_scikit_learns_own_leave_one_out_agrees() -> None:
    x, y = problem(30, 5, targets=1)
    penalties = [0.1, 1.0, 10.0]
    theirs = RidgeCV(alphas=penalties, store_cv_results=True).fit(x.numpy(), y[:, 0].numpy())
    for k, penalty in enumerate(penalties):
        ours = leave_one_out_residuals(ridge_fit(x, y, penalty)).square()[:, 0]
        assert torch.allclose(ours, torch.from_numpy(theirs.cv_results_).reshape(30, -1)[:, k], atol=1e-9)


def test_leverages_degrees_of_freedom_and_the_rotation_invariant_form() -> None:
    x, y = problem(14, 3, targets=1)
    fit = ridge_fit(x, y, 2.0)
    centred = x - x.mean(0)
    hat = centred @ torch.linalg.solve(centred.T @ centred + 2 * torch.eye(3), centred.T) + 1 / 14
    assert torch.allclose(fit.leverages, hat.diagonal(), atol=1e-12)
    assert fit.effective_parameters == pytest.approx(float(hat.trace()), rel=1e-12)
    residuals = y - hat @ y
    expected = float(residuals.square().mean()) / (1 - float(hat.trace()) / 14) ** 2
    assert fit.generalised_cross_validation == pytest.approx(expected, rel=1e-10)
    assert ridge_fit(torch.eye(4), torch.ones(4), 0.0).generalised_cross_validation == math.inf


def test_leaving_out_is_worse_than_keeping() -> None:
    fit = ridge_fit(*problem(20, 8), penalty=0.1)
    assert bool((leave_one_out_residuals(fit).abs() >= fit.residuals.abs()).all())


def test_where_the_rest_does_not_determine_the_fit() -> None:
    saturated: RidgeFit = ridge_fit(torch.eye(3), torch.arange(3.0), 0.0)
    with pytest.raises(NumericalError, match="leverages below 1"):
        leave_one_out_residuals(saturated)
    with pytest.raises(NumericalError, match="unique fit"):
        k_fold_residuals(saturated, [torch.arange(3)])


def test_constant_inputs_and_mistakes() -> None:
    fit = ridge_fit(torch.ones(4, 2), torch.arange(4.0), 1.0)
    assert fit.effective_parameters == pytest.approx(1.0)
    with pytest.raises(SettingError, match="penalty"):
        ridge_fit(torch.ones(4, 2), torch.ones(4), -1.0)
    with pytest.raises(SettingError, match="shapes"):
        ridge_fit(torch.ones(4, 2), torch.ones(3), 1.0)
    with pytest.raises(NumericalError, match="finite"):
        ridge_fit(torch.tensor([[1.0], [math.nan]]), torch.ones(2), 1.0)
    with pytest.raises(SettingError, match="exactly once"):
        k_fold_residuals(fit, [torch.arange(3)])
