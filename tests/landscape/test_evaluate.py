"""Losses at other weights than the network's: against copies of it, and without a trace left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.landscape import (
    Plane,
    Point,
    Ray,
    Segment,
    batch_norms,
    every_parameter,
    from_state,
    here,
    moving,
    on_rows,
    random_direction,
    recomputed_statistics,
    statistics_at,
    values_at,
)
from torchstone.objectives import Classification, Regression
from torchstone.testing import model_state, same_state

Data = tuple[Tensor, Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copy_at(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return other.eval()


def test_the_ends_of_a_line_are_the_losses_of_the_two_states(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    model, other = normalised_cnn(0), normalised_cnn(1)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    line = Segment(from_state(specimen, space, other.state_dict()), here(specimen, space))
    found = values_at(specimen, space, line, [0.0, 0.3, 1.0])
    for row, at_end in ((0, other), (2, model)):
        expected = classifier(at_end, images).example_losses()
        assert (found.losses[row] - expected).abs().max() < 1e-10
    mixed = {
        key: 0.7 * value + 0.3 * model.state_dict()[key] if value.is_floating_point() else value
        for key, value in other.state_dict().items()
    }
    middle = copy_at(model, mixed)
    assert (found.losses[1] - classifier(middle, images).example_losses()).abs().max() < 1e-10
    assert found.wrong is not None
    assert torch.equal(found.wrong[1].bool(), middle(images[0]).argmax(1) != images[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_are_exact_in_low_precision_and_any_memory_format(
    dtype: torch.dtype,
    normalised_cnn: Callable[..., nn.Module],
    images: Data,
    classifier: Callable[..., Specimen],
) -> None:
    model, other = normalised_cnn(0, dtype), normalised_cnn(1, dtype)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    line = Segment(from_state(specimen, space, other.state_dict()), here(specimen, space))
    found = values_at(specimen, space, line, [1.0])
    assert torch.equal(found.losses[0], specimen.example_losses())


def test_a_plane_is_origin_plus_both_directions(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    model = normalised_cnn(0)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    first, second = (random_direction(space, seeded(seed)) for seed in (5, 6))
    found = values_at(specimen, space, Plane(here(specimen, space), first, second), [(0.1, -0.2)])
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            part = space.slices[name]
            parameter += (0.1 * first - 0.2 * second)[part].view(parameter.shape)
    assert (found.losses[0] - classifier(moved, images).example_losses()).abs().max() < 1e-12


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_changes_even_when_interrupted(
    error: type[BaseException],
    normalised_cnn: Callable[..., nn.Module],
    images: Data,
    classifier: Callable[..., Specimen],
) -> None:
    model = normalised_cnn(0)
    model.train()
    storages = [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]
    specimen = classifier(model, images)
    before = model_state(model)
    space = every_parameter(specimen)
    ray = Ray(here(specimen, space), random_direction(space, seeded(0)))

    def stop(done: int, total: int) -> None:
        assert total == 9
        if done == 5:
            raise error

    with pytest.raises(error):
        values_at(specimen, space, ray, [0.0, 1.0, 2.0], progress=stop)
    assert same_state(before, model_state(model))
    assert storages == [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]
    # Also where the outer protection is already in force, so that nothing else restores.
    with specimen.measuring():
        inside = [parameter.clone() for parameter in model.parameters()]
        with pytest.raises(error):
            values_at(specimen, space, ray, [0.0, 1.0, 2.0], progress=stop)
        assert all(map(torch.equal, inside, model.parameters()))


def test_the_data_are_read_once_for_all_points(
    randomised: Callable[..., Any], classifier: Callable[..., Specimen]
) -> None:
    reads = []

    class Counting(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            reads.append(index)
            return super().__getitem__(index)

    x = torch.randn(12, 5, generator=seeded(0), dtype=torch.float64)
    loader = DataLoader(Counting(x, x[:, :3].argmax(1)), batch_size=5)
    specimen = Specimen(randomised(nn.Linear(5, 3), 0), Classification(), loader)
    space = every_parameter(specimen)
    ray = Ray(here(specimen, space), random_direction(space, seeded(0)))
    values_at(specimen, space, ray, [0.1 * i for i in range(7)])
    assert len(reads) == 12


def test_some_rows_only(
    randomised: Callable[..., Any], images: Data, classifier: Callable[..., Specimen]
) -> None:
    specimen = classifier(randomised(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), 0), images)
    space = every_parameter(specimen)
    rows = torch.tensor([0, 7, 8, 22])
    ray = Ray(here(specimen, space), torch.zeros(space.size, dtype=torch.float64))
    found = values_at(on_rows(specimen, {"train": rows}), space, ray, [0.0])
    assert torch.allclose(found.losses[0], specimen.example_losses()[rows], rtol=1e-12)
    assert specimen.size("train") == 23


def test_regression_has_no_error_rate(randomised: Callable[..., Any]) -> None:
    x = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)
    specimen = Specimen(randomised(nn.Linear(2, 1), 0), Regression(), (x, x[:, :1]))
    space = every_parameter(specimen)
    found = values_at(specimen, space, Ray(here(specimen, space), torch.ones(space.size).double()), [0.0])
    assert found.error_rates is None
    assert float(found.risks) == pytest.approx(specimen.risk(), rel=1e-14)


def test_statistics_in_one_batch_are_those_of_update_bn(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    model = normalised_cnn(0)
    specimen = classifier(model, images, batch_size=100)
    before = model_state(model)
    with specimen.measuring():
        found = recomputed_statistics(specimen)
    assert same_state(before, model_state(model))
    reference = copy.deepcopy(model)
    update_bn([images[0]], reference)
    expected = {name: buffer for name, buffer in reference.named_buffers() if "running" in name}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12), name


def test_statistics_over_ragged_batches_weigh_every_example_the_same(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    """The first normalisation sees what does not depend on batches: its statistics must be those of all data."""
    model = normalised_cnn(0)
    specimen = classifier(model, images)  # 8, 8 and 7
    with specimen.measuring():
        found = recomputed_statistics(specimen)
        maps = model[0](images[0]).transpose(0, 1).flatten(1)  # pyright: ignore[reportIndexIssue]
    assert torch.allclose(found["1.running_mean"], maps.mean(1), rtol=1e-12)
    assert torch.allclose(found["1.running_var"], maps.var(1), rtol=1e-12)


def test_statistics_made_anew_are_used_at_each_point(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    model, other = normalised_cnn(0), normalised_cnn(1)
    specimen = classifier(model, images, batch_size=100)
    space = every_parameter(specimen)
    line = Segment(from_state(specimen, space, other.state_dict()), here(specimen, space))
    anew = statistics_at(specimen, space, line, [0.0, 0.4])
    found = values_at(specimen, space, line, [0.0, 0.4], statistics=anew)
    mixed = copy.deepcopy(other)
    mixed.load_state_dict(
        {
            k: 0.6 * v + 0.4 * model.state_dict()[k] if v.is_floating_point() else v
            for k, v in other.state_dict().items()
        }
    )
    for row, expected in zip(found.losses, (other, mixed), strict=True):
        reference = copy.deepcopy(expected)
        update_bn([images[0]], reference)
        assert (row - classifier(reference, images).example_losses()).abs().max() < 1e-10
    assert (
        recomputed_statistics(classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double(), images))
        == {}
    )
    assert len(batch_norms(model)) == 2


def test_beyond_the_ends_variances_stay_what_they_were_at_the_end(
    normalised_cnn: Callable[..., nn.Module], images: Data, classifier: Callable[..., Specimen]
) -> None:
    model, other = normalised_cnn(0), normalised_cnn(1)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    line = Segment(from_state(specimen, space, other.state_dict()), here(specimen, space))
    assert torch.equal(line.at(-3.0).buffers["1.running_var"], other.get_buffer("1.running_var"))
    assert torch.equal(line.at(4.0).buffers["1.running_var"], model.get_buffer("1.running_var"))
    assert values_at(specimen, space, line, [-3.0, 4.0]).losses.isfinite().all()


def test_tied_and_frozen_parameters_move_once(randomised: Callable[..., Any]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.a.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    model, other = randomised(Tied(), 0), randomised(Tied(), 1)
    x = torch.randn(9, 4, generator=seeded(2), dtype=torch.float64)
    specimen = Specimen(model, Classification(), (x, x.argmax(1)))
    space = every_parameter(specimen)
    assert space.names == ("a.weight", "a.bias", "b.bias")
    line = Segment(here(specimen, space), from_state(specimen, space, other.state_dict()))
    expected = Specimen(other, Classification(), (x, x.argmax(1))).example_losses()
    assert torch.allclose(values_at(specimen, space, line, [1.0]).losses[0], expected, rtol=1e-12)


def test_states_that_do_not_fit_are_named(randomised: Callable[..., Any]) -> None:
    x = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)
    model = randomised(nn.Linear(2, 3), 0)
    model.bias.requires_grad_(False)
    specimen = Specimen(model, Classification(), (x, x.argmax(1)))
    space = every_parameter(specimen)
    with pytest.raises(
        SettingError, match=r"A state must hold weight of shape \(3, 2\); got nothing of that name"
    ):
        from_state(specimen, space, {})
    with pytest.raises(SettingError, match=r"weight of shape \(3, 2\); got shape \(2, 2\)"):
        from_state(specimen, space, {"weight": torch.zeros(2, 2)})
    kept = from_state(specimen, space, {"weight": torch.zeros(3, 2)})
    assert torch.equal(kept.weights[6:], model.bias)
    with pytest.raises(SettingError, match="at least one point; got no places"):
        values_at(specimen, space, Ray(here(specimen, space), kept.weights), [])
    bare = Specimen(nn.Flatten(), Classification(), (x, torch.tensor([0, 1] * 3)))
    with pytest.raises(SpecimenError, match="A landscape needs at least one real parameter"):
        every_parameter(bare)


def test_moving_keeps_the_graph_of_the_user_valid(randomised: Callable[..., Any]) -> None:
    """A graph built before must still differentiate afterwards: nothing was written to what it saved."""
    model = randomised(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)), 0)
    x = torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)
    specimen = Specimen(model, Classification(), (x, x.argmax(1)))
    total = model(x).square().sum()
    expected = torch.autograd.grad(total, list(model.parameters()), retain_graph=True)
    space = every_parameter(specimen)
    with specimen.measuring(), moving(specimen, space) as put:
        put(Point(torch.zeros(space.size, dtype=torch.float64)))
        assert not model(x).any()
    again = torch.autograd.grad(total, list(model.parameters()))
    assert all(map(torch.equal, expected, again))
