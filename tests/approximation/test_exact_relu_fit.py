"""Global minima of tiny ReLU networks against descent, against all patterns by hand, and on data that can be fitted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from torchstone.approximation import exact_relu_fit, find_split, splitting_data, splitting_network
from torchstone.errors import SettingError


def data(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, generator=generator, dtype=torch.float64)


def loss_of(parameters: np.ndarray, x: np.ndarray, y: np.ndarray, signs: np.ndarray) -> float:
    units = parameters.reshape(len(signs), -1)
    outputs = np.maximum(x @ units[:, :-1].T + units[:, -1], 0) @ signs
    return float(np.mean((outputs - y) ** 2))


@pytest.mark.parametrize(
    ("n", "d", "hidden", "seed"), [(6, 1, 1, 0), (8, 2, 1, 1), (5, 1, 2, 2), (6, 2, 2, 3)]
)
def test_no_local_search_gets_lower_and_some_get_as_low(n: int, d: int, hidden: int, seed: int) -> None:
    x, y = data(n, d, seed)
    fit = exact_relu_fit(x, y, hidden)
    generator, best = np.random.default_rng(seed), np.inf
    for signs in itertools.product((1.0, -1.0), repeat=hidden):
        for _ in range(60):
            start = generator.normal(size=hidden * (d + 1)) * 2
            arguments = (x.numpy(), y.numpy(), np.array(signs))
            rough = minimize(loss_of, start, args=arguments, method="Nelder-Mead")
            best = min(best, rough.fun)
    assert fit.loss <= best + 1e-12
    assert best < fit.loss + 0.02 * float(y.square().mean())
    assert fit.violation < 1e-9


def test_it_is_the_best_of_all_patterns_quadratic_programs() -> None:
    """One unit: for every subset of active points minimise over (w, b) with the signs as constraints, by SLSQP."""
    x, y = data(5, 1, 7)
    extended = np.column_stack([x.numpy(), np.ones(5)])
    best = float(y.square().sum())
    for output, active in itertools.product((1.0, -1.0), itertools.product((False, True), repeat=5)):
        mask = np.array(active)
        rows = np.where(mask[:, None], output * extended, 0.0)
        sides = np.where(mask, 1.0, -1.0)[:, None] * extended
        found = minimize(
            lambda z, rows=rows: float(np.sum((rows @ z - y.numpy()) ** 2)),
            np.zeros(2),
            jac=lambda z, rows=rows: 2 * rows.T @ (rows @ z - y.numpy()),
            constraints={
                "type": "ineq",
                "fun": lambda z, sides=sides: sides @ z,
            },
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        if (sides @ found.x > -1e-9).all():
            best = min(best, found.fun)
    assert exact_relu_fit(x, y, 1).loss == pytest.approx(best / 5, rel=1e-7)


@pytest.mark.parametrize(("hidden", "seeds"), [(1, range(120)), (2, range(3))])
def test_the_network_has_the_loss_that_is_said(hidden: int, seeds: range) -> None:
    """Also where a ray of the cone is 0 on all active points, which rounding must not turn into a direction to use."""
    for seed in seeds:
        x, y = data(8, 2, seed)
        fit = exact_relu_fit(x, y, hidden)
        with torch.no_grad():
            outputs = fit.network()(x)[:, 0]
        assert float((outputs - y).square().mean()) == pytest.approx(fit.loss, rel=1e-9), seed


def test_data_from_such_a_network_are_fitted_exactly() -> None:
    x, _ = data(8, 2, 5)
    y = torch.relu(x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + 0.3) - torch.relu(x[:, 0] - 0.1)
    assert exact_relu_fit(x, y, 2).loss == pytest.approx(0.0, abs=1e-20)


def test_more_units_never_fit_worse_and_needless_ones_are_zero() -> None:
    x, y = data(6, 1, 9)
    losses = [exact_relu_fit(x, y, hidden).loss for hidden in (1, 2, 3)]
    assert losses == sorted(losses, reverse=True)
    zero = exact_relu_fit(x, torch.zeros(6), 2)
    assert zero.loss == 0.0
    assert not zero.units.any()


def test_equal_inputs_are_fitted_by_their_mean() -> None:
    x = torch.ones(4, 2)
    assert exact_relu_fit(x, torch.tensor([0.0, 1.0, 2.0, 3.0])).loss == pytest.approx(1.25, rel=1e-12)


def test_signs_can_be_restricted() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]])
    y = -torch.tensor([0.0, 0.0, 1.0])
    assert exact_relu_fit(x, y).loss == pytest.approx(0.0, abs=1e-20)
    assert exact_relu_fit(x, y, output_signs=(1.0,)).loss == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "hidden"),
    [
        (torch.zeros(3), torch.zeros(3), 1),
        (torch.zeros(3, 1), torch.zeros(2), 1),
        (torch.zeros(3, 1), torch.zeros(3), 0),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(x: Tensor, y: Tensor, hidden: int) -> None:
    with pytest.raises(SettingError, match="inputs"):
        exact_relu_fit(x, y, hidden)


def test_the_units_of_the_inputs_do_not_matter() -> None:
    x, y = data(8, 2, 4)
    moved = x * torch.tensor([1e-4, 1e4], dtype=torch.float64) + torch.tensor(
        [3.0, -2e5], dtype=torch.float64
    )
    plain, other = exact_relu_fit(x, y), exact_relu_fit(moved, y)
    assert other.loss == pytest.approx(plain.loss, rel=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(other.network()(moved), plain.network()(x), rtol=1e-6, atol=1e-8)


def test_targets_must_be_finite() -> None:
    with pytest.raises(SettingError, match="Inputs and targets must be finite"):
        exact_relu_fit(torch.zeros(2, 1), torch.tensor([0.0, torch.inf]))


FAMILIES = {
    "path": (3, [(0, 1), (1, 2)]),
    "triangle": (3, [(0, 1), (1, 2), (0, 2)]),
    "one set of three": (3, [(0, 1, 2)]),
    "square": (4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "pairs and a triple": (4, [(0, 1), (0, 2), (1, 2, 3), (0, 3)]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_two_units_reach_zero_exactly_where_the_sets_can_be_split(name: str) -> None:
    elements, sets = FAMILIES[name]
    fit = exact_relu_fit(*splitting_data(elements, sets), 2)
    assert (fit.loss < 1e-20) == (find_split(elements, sets) is not None)
    assert fit.loss < 1e-20 or fit.loss > 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_the_network_of_a_split_fits_without_error(seed: int) -> None:
    generator = np.random.default_rng(seed)
    colours = [0, 1, *generator.integers(0, 2, size=8).tolist()]
    sets = []
    while len(sets) < 15:
        one = tuple(generator.choice(10, size=generator.integers(2, 6), replace=False).tolist())
        if len({colours[i] for i in one}) == 2:
            sets.append(one)
    x, y = splitting_data(10, sets)
    with torch.no_grad():
        outputs = splitting_network(colours, sets)(x)[:, 0]
    torch.testing.assert_close(outputs, y, atol=0, rtol=0)


def test_sets_must_hold_two_elements_that_exist() -> None:
    for wrong in ([(0,)], [(0, 3)], [(1, 1)]):
        with pytest.raises(SettingError, match="Sets hold two or more of the elements 0 to 2"):
            splitting_data(3, wrong)
