"""Lines and planes: parabolas of quadratics, barriers, convexity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError
from torchstone.landscape import (
    GridLosses,
    Plane,
    Profile,
    Ray,
    Segment,
    barrier_height,
    every_parameter,
    extreme_eigenvalues,
    from_state,
    grid_places,
    here,
    inclusive,
    largest_mean,
    parabola_along,
    random_direction,
    values_at,
)
from torchstone.objectives import Regression
from torchstone.testing import dense_hessian


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double_well(x: Tensor, y: Tensor) -> Tensor:
    """Minima 0 at (-1, 0) and 0.2 at (1, 0), a ridge between; the barrier of the line is derived below."""
    return (x.square() - 1).square() + y.square() + 0.1 * (x + 1)


def test_on_a_quadratic_the_line_is_the_parabola(randomised: Callable[..., Any]) -> None:
    x = torch.randn(30, 6, generator=seeded(0), dtype=torch.float64)
    y = torch.randn(30, 2, generator=seeded(1), dtype=torch.float64)
    specimen = Specimen(randomised(nn.Linear(6, 2), 0), Regression(), (x, y), batch_size=7)
    space = every_parameter(specimen)
    d = random_direction(space, seeded(2))
    places = torch.linspace(-2, 2, 9).tolist()
    risks = values_at(specimen, space, Ray(here(specimen, space), d), places).risks
    parabola = parabola_along(specimen, space, d)
    assert parabola.curvature == pytest.approx(float(d @ dense_hessian(specimen) @ d), rel=1e-10)
    for place, risk in zip(places, risks.tolist(), strict=True):
        assert risk == pytest.approx(parabola(place), rel=1e-8)
    fitted = torch.linalg.lstsq(
        torch.tensor([[1, a, a * a / 2] for a in places], dtype=torch.float64), risks[:, None]
    ).solution
    assert float(fitted[2]) == pytest.approx(parabola.curvature, rel=1e-8)


def test_the_parabola_is_the_second_order_expansion_of_a_curved_loss(
    randomised: Callable[..., Any], classifier: Callable[..., Specimen]
) -> None:
    x = torch.randn(30, 6, generator=seeded(0), dtype=torch.float64)
    model = randomised(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), 0)
    specimen = classifier(model, (x, x[:, :3].argmax(1)))
    space = every_parameter(specimen)
    d = random_direction(space, seeded(2))
    parabola, h = parabola_along(specimen, space, d), 1e-4
    low, mid, high = values_at(specimen, space, Ray(here(specimen, space), d), [-h, 0.0, h]).risks.tolist()
    assert parabola.value == pytest.approx(mid, rel=1e-13)
    assert parabola.slope == pytest.approx((high - low) / (2 * h), rel=1e-6)
    assert parabola.curvature == pytest.approx((high - 2 * mid + low) / h**2, rel=1e-5)


def test_frozen_directions_have_no_parabola(
    randomised: Callable[..., Any], classifier: Callable[..., Specimen]
) -> None:
    x = torch.randn(30, 6, generator=seeded(0), dtype=torch.float64)
    model = randomised(nn.Linear(6, 3), 0)
    model.bias.requires_grad_(False)
    specimen = classifier(model, (x, x[:, :3].argmax(1)))
    space = every_parameter(specimen)
    d = torch.ones(space.size, dtype=torch.float64)
    with pytest.raises(SettingError, match="zero in frozen parameters; got bias"):
        parabola_along(specimen, space, d)
    d[space.slices["bias"]] = 0
    own = torch.ones(18, dtype=torch.float64)
    assert parabola_along(specimen, space, d).curvature == pytest.approx(
        float(own @ dense_hessian(specimen) @ own), rel=1e-10
    )


def test_the_barrier_of_a_double_well_is_analytic(height_map: Callable[..., Specimen]) -> None:
    """Above the chord 0.1 (x + 1) between (-1, 0) and (1, 0) rises (x^2 - 1)^2, 1 at x = 0."""
    specimen = height_map(double_well)
    space = every_parameter(specimen)
    ends = [from_state(specimen, space, {"place": torch.tensor([x, 0.0]).double()}) for x in (-1.0, 1.0)]
    places = inclusive(-0.5, 1.5, 61, also=(0.0, 1.0))
    profile = Profile(tuple(places), values_at(specimen, space, Segment(*ends), places).losses)
    assert profile.barrier.value == pytest.approx(1.0, abs=1e-3)
    assert profile.barrier_place == pytest.approx(0.5, abs=0.02)
    assert (profile.barrier.low, profile.barrier.high) == pytest.approx((profile.barrier.value,) * 2)
    # The largest rise starts at the lower minimum near x = -1 and ends at the top near x = 0.
    height = lambda x: (x * x - 1) ** 2 + 0.1 * (x + 1)
    fine = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    exact = float(height(fine).max() - height(fine)[:50_000].min())
    assert profile.rise.value == pytest.approx(exact, abs=5e-3)
    assert not profile.monotone


def test_a_monotone_line_has_no_rise_and_no_barrier() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    profile = Profile(tuple(t.tolist()), ((1 - t) ** 2)[:, None].expand(-1, 4))
    assert profile.barrier.value == profile.rise.value == 0
    assert (profile.barrier.index, profile.barrier_place) == (-1, 0.5)
    assert profile.monotone
    assert barrier_height((0.0, 0.5, 1.0), (3.0, 2.9, 1.0)) == pytest.approx(0.9)


@pytest.mark.parametrize("bumps", [(0.0,) * 8, (0.0, 0.3, 0.28, 0.1, 0.0, -0.2, 0.0, 0.05)])
def test_the_interval_of_a_searched_maximum_covers(bumps: tuple[float, ...]) -> None:
    """Ties are the hardest: the maximum of eight equal means errs upwards, and the interval must still hold it."""
    generator, truth, covered, naive = seeded(0), torch.tensor(bumps, dtype=torch.float64), 0, 0
    mixing = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    for _ in range(2000):
        noise = torch.randn(60, 8, generator=generator, dtype=torch.float64).exp() - 1.6487212707
        found = largest_mean(truth[:, None] + (noise @ mixing).T)
        covered += found.low <= float(truth.max()) <= found.high
        half = 1.96 * float((noise @ mixing)[:, found.index].std()) / 60**0.5
        naive += abs(found.value - float(truth.max())) <= half
    assert covered >= (0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5) * 2000
    assert max(bumps) > 0 or naive < 0.9 * 2000  # what the correction is for


def test_contrasts_that_cannot_be_compared() -> None:
    assert largest_mean(torch.tensor([[1.0, torch.nan], [0.0, 0.0]])).high == float("inf")
    single = largest_mean(torch.tensor([[1.0], [2.0]]))
    assert (single.value, single.low, single.high) == (2.0, 0.0, float("inf"))
    with pytest.raises(SettingError, match=r"Contrasts must have shape \(M, N\)"):
        largest_mean(torch.zeros(0, 3))
    with pytest.raises(SettingError, match="must increase and hold 0 and 1"):
        Profile((0.0, 0.5), torch.zeros(2, 3))
    with pytest.raises(SettingError, match="one row for each of 3 places"):
        Profile((0.0, 0.5, 1.0), torch.zeros(2, 3))
    with pytest.raises(SettingError, match="more points than are fixed"):
        inclusive(0, 1, 3, also=(0.0, 1.0))


def test_numbers_that_must_be_hit_are_hit() -> None:
    found = inclusive(-0.5, 1.5, 20, also=(0.0, 1.0))
    assert len(found) == 20
    assert 0.0 in found
    assert 1.0 in found
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("formula", "share"),
    [
        (lambda x, y: x.square() + x * y + y.square(), 1.0),
        (lambda x, y: x.square() - y.square(), 0.0),
        (lambda x, y: 1 + 0 * x * y, 1.0),
        (lambda x, y: (x**3) + 0 * y + 10, 0.5),
    ],
)
def test_the_convex_share_of_a_plane(height_map: Any, formula: Any, share: float) -> None:
    specimen = height_map(formula)
    space = every_parameter(specimen)
    unit = torch.eye(2, dtype=torch.float64)
    ticks = torch.linspace(-1, 1, 20).double().tolist()
    plane = Plane(here(specimen, space), unit[0], unit[1])
    risks = values_at(specimen, space, plane, grid_places(ticks, ticks)).risks
    grid = GridLosses.of(ticks, ticks, risks)
    assert grid.convex_share == pytest.approx(share, abs=1e-9)


def test_eigenvalues_of_the_plane_and_of_the_whole_hessian(height_map: Any) -> None:
    specimen = height_map(lambda x, y: 2 * x.square() - 0.5 * y.square() + x * y)
    space = every_parameter(specimen)
    unit = torch.eye(2, dtype=torch.float64)
    first, second = [-1.0, 0.0, 1.0, 2.0], [0.0, 0.5, 1.0]
    plane = Plane(here(specimen, space), unit[0], unit[1])
    grid = GridLosses.of(first, second, values_at(specimen, space, plane, grid_places(first, second)).risks)
    exact = torch.linalg.eigvalsh(torch.tensor([[4.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    assert torch.allclose(grid.eigenvalues, exact.expand(1, 2, 2), rtol=1e-9)
    assert grid.curvature_ratio[0, 0].item() == pytest.approx(float(abs(exact[0] / exact[1])), rel=1e-9)
    assert grid.minimum[:2] == (0.0, 1.0)
    assert grid.maximum == (2.0, 1.0, 2 * 4 - 0.5 + 2)
    (found,) = extreme_eigenvalues(specimen, space, plane, [(0.3, 0.3)], seeded(0))
    assert (found.smallest, found.largest) == pytest.approx(tuple(exact.tolist()), rel=1e-6)
    assert found.ratio == pytest.approx(float(abs(exact[0] / exact[1])), rel=1e-6)
    with pytest.raises(SettingError, match="at least 3 x 3"):
        GridLosses((0.0, 1.0), (0.0, 1.0), torch.zeros(2, 2))


def test_the_hessian_is_taken_at_the_point_not_at_the_network(height_map: Any) -> None:
    specimen = height_map(lambda x, y: x**4 + y.square())
    space = every_parameter(specimen)
    ray = Ray(here(specimen, space), torch.tensor([1.0, 0.0]).double())
    found = extreme_eigenvalues(specimen, space, ray, [0.0, 1.0, -1.0], seeded(0))
    assert [(e.smallest, e.largest) for e in found] == [
        pytest.approx((0, 2), abs=1e-9), pytest.approx((2, 12)), pytest.approx((2, 12)),
    ]  # fmt: skip
