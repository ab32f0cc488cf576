"""The search for critical samples against linear decisions, whose distance is known, and where plain ascent is misled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError
from torchstone.robust import langevin_search, misclassify, pgd
from torchstone.robust.losses import margin


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [1, 7, 100])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.5])
def test_a_linear_decision_is_critical_iff_f_is_at_most_r_times_the_l1_norm(
    radius: float, width: int, dtype: torch.dtype
) -> None:
    generator = _generator(width)
    weight = torch.randn(width, generator=generator, dtype=torch.float64).to(dtype)
    # |f| / |w|_1 is of the order of the radius, so that both kinds occur.
    x = (radius * width**0.5 * torch.randn(2000, width, generator=generator, dtype=torch.float64)).to(dtype)
    score = lambda z: z @ weight + 0.1 * radius * weight.abs().sum()
    logits = lambda z: torch.stack([torch.zeros(len(z), dtype=dtype), score(z)], 1)
    found = langevin_search(logits, x, radius, generator=generator)
    critical = score(x).abs() / weight.abs().sum() <= radius
    assert 200 < int(critical.sum()) < 1800
    agreement = (found.success == critical).double().mean()
    assert agreement >= 0.99  # the gate
    sure = (score(x).abs() / weight.abs().sum() - radius).abs() > 1e-5
    assert torch.equal(found.success[sure], critical[sure])


def test_several_classes() -> None:
    """Critical iff the nearest of the other classes' hyperplanes crosses the box."""
    generator = _generator()
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(3000, 8, generator=generator, dtype=torch.float64)
    scores = x @ weight.T
    k = scores.argmax(1)
    lead = scores.gather(1, k[:, None]) - scores
    distance = lead / (weight[k][:, None] - weight[None]).abs().sum(2).scatter(1, k[:, None], 1.0)
    nearest = distance.scatter(1, k[:, None], torch.inf).amin(1)
    found = langevin_search(lambda z: z @ weight.T, x, 0.1, generator=generator, steps=40)
    assert (found.success == (nearest <= 0.1)).double().mean() >= 0.99
    assert not bool((found.success & (nearest > 0.1 + 1e-9)).any())  # never a false find


def test_what_it_finds_is_in_the_box_and_decided_otherwise() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=_generator(parameter.numel())))
    x = torch.randn(200, 4, generator=_generator(), dtype=torch.float64)
    radius = torch.linspace(0, 0.5, 200, dtype=torch.float64)
    found = langevin_search(net, x, radius, generator=_generator(), bounds=(-5.0, 5.0))
    moved = net(found.inputs).argmax(1) != net(x).argmax(1)
    assert torch.equal(moved, found.success)
    assert bool(((found.inputs - x).abs().amax(1) <= radius + 1e-12).all())
    assert 0 < int(found.success.sum()) < 200
    assert not bool(found.success[0])  # radius 0


def test_noise_leaves_places_where_plain_ascent_stands_still() -> None:
    """Behind a plateau: the gradient is zero at the start."""

    def logits(z: Tensor) -> Tensor:
        lead = torch.relu(z[:, 0].abs() - 0.1) - 0.2  # flat within 0.1, critical beyond 0.3
        return torch.stack([torch.zeros_like(lead), lead], 1)

    x = torch.zeros(2000, 1, dtype=torch.float64)
    plain = pgd(misclassify(logits, torch.zeros(2000, dtype=torch.long), margin), x, 0.5)
    assert not bool(plain.success.any())
    noisy = langevin_search(logits, x, 0.5, generator=_generator(), steps=40)
    # On the plateau it is a Gaussian walk of steps 0.8 * (4 * 0.5 / 40) * (1 - 2 t / 40); off it, it is drawn out.
    steps = 0.8 * 0.05 * (1 - torch.arange(20) / 20)
    walk = (torch.randn(20000, 20, generator=_generator(1)) * steps).cumsum(1)
    off = float((walk.abs() > 0.1).any(1).double().mean())
    assert float(noisy.success.double().mean()) == pytest.approx(off, abs=4 * (off * (1 - off) / 2000) ** 0.5)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    logits = lambda z: torch.stack([z.sin().sum(1), z.cos().sum(1)], 1)
    x = torch.randn(20, 3, generator=_generator(), dtype=torch.float64)
    first, again, other = (langevin_search(logits, x, 2.0, generator=_generator(s)).inputs for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_examples() -> None:
    logits = lambda z: torch.cat([z, -z], 1)
    assert len(langevin_search(logits, torch.zeros(0, 1), 0.1, generator=_generator()).success) == 0


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"noise": -1.0}, {"noise": float("nan")}, {"step_size": 0.0}, {"radius": torch.inf}],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    chosen = {"radius": 0.1, **settings}
    with pytest.raises(SettingError, match="langevin_search needs a finite radius"):
        langevin_search(
            lambda z: torch.cat([z, -z], 1),
            torch.zeros(2, 1),
            chosen.pop("radius"),
            generator=_generator(),
            **chosen,  # pyright: ignore[reportArgumentType]
        )


def test_inputs_that_are_not_finite() -> None:
    with pytest.raises(NumericalError, match="finite inputs"):
        langevin_search(lambda z: z, torch.tensor([[torch.nan, 0.0]]), 0.1, generator=_generator())
