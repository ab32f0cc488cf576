"""Traces under losses of many outputs: positions, mixed signs of curvature, and sampled outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import CausalLM, Classification, Objective
from torchstone.operators import gauss_newton_trace


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def test_segmentation_and_label_smoothing(randomised: Any, one_at_a_time: Any) -> None:
    model = randomised(nn.Conv2d(2, 3, 3, padding=1))
    x, y = randn(5, 2, 3, 4), torch.randint(3, (5, 3, 4), generator=generator(1))
    y[0, 0, 0] = -100
    specimen = Specimen(model, Classification(label_smoothing=0.1), (x, y), batch_size=3)
    result = gauss_newton_trace(specimen, generator=generator(2))
    expected = one_at_a_time(specimen, (x, y), 5)
    for name, values in expected.items():
        torch.testing.assert_close(result.by_example[name], values, rtol=1e-10, atol=1e-12)


class Concave(Objective):
    """Loss that is concave in the first output and convex in the others, with mixed terms."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return outputs.exp().sum(1) - 3 * outputs[:, 0].exp() + outputs[:, 0] * outputs[:, 1]


def test_losses_that_are_not_convex(randomised: Any, one_at_a_time: Any) -> None:
    specimen = Specimen(randomised(nn.Linear(4, 3)), Concave(), randn(6, 4), batch_size=4)
    result = gauss_newton_trace(specimen, generator=generator(2))
    expected = one_at_a_time(specimen, randn(6, 4), 6)
    torch.testing.assert_close(result.by_example["weight"], expected["weight"], rtol=1e-10, atol=1e-12)
    assert bool((expected["weight"] < 0).any())


def language_model(randomised: Any) -> tuple[Specimen, Tensor]:
    model = randomised(nn.Sequential(nn.Embedding(11, 4), nn.Tanh(), nn.Linear(4, 11)))
    data = torch.randint(11, (5, 6), generator=generator(3))
    return Specimen(model, CausalLM(), data, batch_size=3), data


def test_language_models_are_exact_where_affordable_and_sampled_where_not(
    randomised: Any, one_at_a_time: Any
) -> None:
    specimen, data = language_model(randomised)
    expected = one_at_a_time(specimen, data, 5)
    exact = gauss_newton_trace(specimen, max_columns=100, generator=generator(2))
    assert exact.columns == 66
    assert exact.by_sample == {}
    copies = Specimen(specimen.model, CausalLM(), data.repeat(20, 1), batch_size=60)  # 20 draws in one
    sampled = gauss_newton_trace(copies, max_columns=65, samples=100, generator=generator(2))
    assert sampled.columns == 100
    for name, values in expected.items():
        torch.testing.assert_close(exact.by_example[name], values, rtol=1e-9, atol=1e-12)
        error = sampled.variance(name) ** 0.5
        assert 0 < error < 0.05 * float(values.mean())
        assert abs(sampled.value(name) - float(values.mean())) < 4 * error
