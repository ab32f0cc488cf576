"""Where there is no trace the parameters are named with the reason."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Objective
from torchstone.operators import gauss_newton_trace


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


class OfOutputs(Objective):
    """A loss of the outputs alone."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)


def reason(specimen: Specimen, **options: Any) -> str:
    result = gauss_newton_trace(specimen, generator=generator(2), **options)
    assert set(result.missing) == set(specimen.trainable)
    assert result.by_example == {}
    return next(iter(result.missing.values()))


def test_losses_that_depend_on_each_other_are_refused(randomised: Any) -> None:
    class Contrast(OfOutputs):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")

    specimen = Specimen(randomised(nn.Linear(4, 3)), Contrast(), randn(6, 4))
    assert reason(specimen) == "the losses of a batch depend on each other"


def test_coupled_examples_are_refused() -> None:
    specimen = Specimen(
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().train(),
        Classification(),
        (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        mode="as_is",
    )
    assert reason(specimen.prepared()) == "an example's output depends on the rest of its batch"


def test_examples_that_mix_unannounced_are_noticed_by_their_signals(written: Any) -> None:
    """The same network, without the preparation that finds out."""
    model = written(lambda m, x: m.inner[0](x - x.mean(0)), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    specimen = Specimen(
        model.double().train(),
        Classification(),
        (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        mode="as_is",
    )
    result = gauss_newton_trace(specimen, generator=generator(2))
    assert set(result.missing) == set(specimen.trainable)


def test_unknown_large_loss_hessians_are_refused(randomised: Any) -> None:
    class Mixed(OfOutputs):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.logsumexp(1) ** 2 + outputs.square().sum(1)

    specimen = Specimen(randomised(nn.Linear(4, 60)), Mixed(), randn(6, 4))
    assert reason(specimen) == "the loss Hessian of 60 outputs has no structure that is known"


def test_custom_loss_functions_are_refused(randomised: Any) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * ctx.saved_tensors[0] * gradient

    class Custom(OfOutputs):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            made: Any = Square.apply(outputs)
            return made.sum(1)

    assert reason(Specimen(randomised(nn.Linear(4, 3)), Custom(), randn(6, 4))) == (
        "the loss is a custom autograd function"
    )


def test_parameters_without_rule_or_vmap_are_missing_alone(randomised: Any, one_at_a_time: Any) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.bend = nn.Linear(4, 3), nn.Bilinear(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return self.bend(h, h) if bool((h > -1e9).all()) else h

    model = randomised(Branching())
    data = (randn(6, 4), torch.randint(3, (6,), generator=generator(1)))
    specimen = Specimen(model, Classification(), data, batch_size=4)
    result = gauss_newton_trace(specimen, generator=generator(2))
    assert result.missing == {
        "bend.weight": "its use has no rule and the network does not run under torch.func.vmap"
    }
    expected = one_at_a_time(specimen, data, 6)
    for name in ("inner.weight", "inner.bias", "bend.bias"):
        torch.testing.assert_close(result.by_example[name], expected[name], rtol=1e-10, atol=1e-12)


def test_parameters_that_functional_calls_do_not_reach_are_missing(randomised: Any) -> None:
    """A reference kept outside the modules is not replaced by torch.func: its gradients there would be zero."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bend = nn.Bilinear(4, 4, 3)
            self.kept = [self.bend.weight]

        def forward(self, x: Tensor) -> Tensor:
            return F.bilinear(x, x, self.kept[0], self.bend.bias)

    data = (randn(6, 4), torch.randint(3, (6,), generator=generator(1)))
    result = gauss_newton_trace(
        Specimen(randomised(Hidden()), Classification(), data), generator=generator(2)
    )
    assert set(result.missing) == {"bend.weight"}
