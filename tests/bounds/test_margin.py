"""Margins by brute force; norms by enumeration of paths; the rescaling that Euclidean norms see and functions do not."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.margin import margins, normalised_margins, path_norm, product_norm
from torchstone.errors import NumericalError, SettingError


def network(generator: torch.Generator, widths: tuple[int, ...] = (5, 7, 6, 3)) -> list[Tensor]:
    shapes = itertools.pairwise(widths)
    return [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in shapes]


def forward(weights: list[Tensor], x: Tensor) -> Tensor:
    for weight in weights[:-1]:
        x = torch.relu(x @ weight.T)
    return x @ weights[-1].T


def test_margins_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 6, 5, generator=generator)
    labels = torch.randint(5, (4, 6), generator=generator)
    found = margins(logits, labels)
    assert found.dtype == torch.float64
    for i, j in itertools.product(range(4), range(6)):
        row, y = logits[i, j].double().tolist(), int(labels[i, j])
        assert float(found[i, j]) == row[y] - max(v for c, v in enumerate(row) if c != y)
    assert torch.equal(found > 0, logits.argmax(-1) == labels)


def test_margins_of_ties_and_masked_classes() -> None:
    logits = torch.tensor([[2.0, 2.0, 1.0], [0.0, -math.inf, -math.inf]])
    assert margins(logits, torch.tensor([0, 0])).tolist() == [0.0, math.inf]


def test_path_norm_by_enumeration_of_paths() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = network(generator, (3, 4, 2, 2))
    biases = [torch.randn(len(w), generator=generator, dtype=torch.float64) for w in weights]
    for p in (1.0, 2.0, 3.0):
        total = 0.0
        for path in itertools.product(range(3), range(4), range(2), range(2)):
            total += math.prod(
                abs(float(w[b, a])) ** p for w, (a, b) in zip(weights, itertools.pairwise(path), strict=True)
            )
        assert path_norm(weights, order=p) == pytest.approx(total ** (1 / p), rel=1e-12)
        for j, k, m in itertools.product(range(4), range(2), range(2)):
            total += abs(float(biases[0][j] * weights[1][k, j] * weights[2][m, k])) ** p
        for k, m in itertools.product(range(2), range(2)):
            total += abs(float(biases[1][k] * weights[2][m, k])) ** p
        total += float(biases[2].abs().pow(p).sum())
        assert path_norm(weights, biases, p) == pytest.approx(total ** (1 / p), rel=1e-12)


def test_rescaling_changes_the_euclidean_norm_but_no_function_and_no_path() -> None:
    generator = torch.Generator().manual_seed(3)
    weights, x = network(generator), torch.randn(50, 5, generator=generator, dtype=torch.float64)
    c = 100.0
    scaled = [weights[0] * c, weights[1] / c, weights[2]]
    change = (forward(weights, x) - forward(scaled, x)).abs().max()
    assert float(change) < 1e-10
    euclidean = lambda ws: math.sqrt(sum(float(w.square().sum()) for w in ws))
    assert euclidean(scaled) > 10 * euclidean(weights)
    assert abs(path_norm(scaled) / path_norm(weights) - 1) < 1e-10
    for order in ("fro", 2, "nuc"):
        assert abs(product_norm(scaled, order) / product_norm(weights, order) - 1) < 1e-10


def test_path_norm_alone_survives_rescaling_of_single_units() -> None:
    generator = torch.Generator().manual_seed(4)
    weights = network(generator)
    factors = torch.logspace(-2, 2, 7, dtype=torch.float64)
    scaled = [weights[0] * factors[:, None], weights[1] / factors, weights[2]]
    assert abs(path_norm(scaled) / path_norm(weights) - 1) < 1e-10
    assert product_norm(scaled) > 10 * product_norm(weights)


def test_norms_of_very_deep_networks_stay_in_range() -> None:
    deep = [1e150 * torch.eye(2, dtype=torch.float64), 1e-150 * torch.eye(2, dtype=torch.float64)] * 40
    assert path_norm(deep, order=1) == pytest.approx(2.0, rel=1e-9)
    assert product_norm(deep, 2) == pytest.approx(1.0, rel=1e-9)
    assert path_norm([1e200 * torch.eye(2, dtype=torch.float64)] * 3, order=1) == math.inf
    assert product_norm([torch.eye(2), torch.zeros(2, 2)]) == 0.0
    assert path_norm([torch.zeros(2, 2)]) == 0.0
    # A dead layer still lets the paths of later biases through.
    assert path_norm([torch.zeros(1, 1), torch.ones(1, 1)], [None, torch.tensor([3.0])]) == pytest.approx(3.0)


def test_normalised_margins_are_in_units_of_the_bound() -> None:
    assert normalised_margins(torch.tensor([6.0]), 2.0, 30.0, 10).tolist() == [1.0]
    with pytest.raises(SettingError, match="positive finite"):
        normalised_margins(torch.tensor([6.0]), 0.0, 30.0, 10)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="at least two classes"):
        margins(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(SettingError, match="integer labels"):
        margins(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(SettingError, match="label -100"):
        margins(torch.zeros(3, 2), torch.tensor([0, 1, -100]))
    with pytest.raises(NumericalError, match="NaN"):
        margins(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(SettingError, match="that chain"):
        path_norm([torch.zeros(2, 3), torch.zeros(2, 3)])
    with pytest.raises(SettingError, match="that chain"):
        product_norm([])
    with pytest.raises(SettingError, match="order must be positive"):
        path_norm([torch.zeros(2, 3)], order=0)
    with pytest.raises(SettingError, match="one bias"):
        path_norm([torch.zeros(2, 3)], biases=[])
    for norm in (path_norm, product_norm):
        with pytest.raises(NumericalError, match="Weights must be finite"):
            norm([torch.tensor([[1.0, math.nan]])])
