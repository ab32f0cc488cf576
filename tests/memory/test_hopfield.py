"""Storage, recall and capacity of Hopfield networks."""

import math

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.memory import CRITICAL_LOAD, HopfieldNetwork, overlap, unstable_bit_rate


def patterns(count: int, neurons: int, seed: int = 0) -> torch.Tensor:
    bits = torch.randint(0, 2, (count, neurons), generator=torch.Generator().manual_seed(seed))
    return (2 * bits - 1).double()


def flipped(states: torch.Tensor, share: float, seed: int = 1) -> torch.Tensor:
    noise = torch.rand(states.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(noise < share, -states, states)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_weights_are_those_of_the_definition():
    xi = patterns(3, 5)
    W = HopfieldNetwork.store(xi).weights
    for i in range(5):
        for j in range(5):
            expected = 0 if i == j else float((xi[:, i] * xi[:, j]).sum()) / 5
            assert float(W[i, j]) == pytest.approx(expected)


def test_far_below_capacity_every_pattern_is_recalled_from_a_tenth_of_its_bits_flipped():
    xi = patterns(10, 400)
    found = HopfieldNetwork.store(xi).recall(flipped(xi, 0.1), generator=generator())
    assert torch.equal(found.states, xi)
    assert bool(found.settled.all())


def test_recall_breaks_down_beyond_the_critical_load():
    n = 400
    means = []
    for load in (0.05, 2 * CRITICAL_LOAD):
        xi = patterns(int(load * n), n)
        found = HopfieldNetwork.store(xi).recall(xi, generator=generator())
        means.append(float(overlap(found.states, xi).diagonal().mean()))
    assert means[0] > 0.999
    assert means[1] < 0.7


def test_energy_never_rises_and_recall_ends_in_fixed_points():
    xi = patterns(30, 100)
    network = HopfieldNetwork.store(xi)
    states = patterns(20, 100, seed=5)
    order, energy = generator(), network.energy(states)
    for _ in range(6):
        states = network.recall(states, generator=order, sweeps=1).states
        later = network.energy(states)
        assert bool((later <= energy + 1e-9).all())
        energy = later
    rested = network.recall(states, generator=order)
    fields = rested.states @ network.weights
    assert bool(rested.settled.all())
    assert bool((fields * rested.states >= -1e-12).all())
    assert network.energy(states)[0] == pytest.approx(float(-0.5 * states[0] @ network.weights @ states[0]))


def test_the_first_update_flips_as_many_bits_as_the_normal_crosstalk_says():
    n, load = 2000, 0.2
    xi = patterns(int(load * n), n)
    W = HopfieldNetwork.store(xi).weights
    wrong = (xi @ W) * xi < 0
    share = float(wrong.double().mean())
    error = 3 * math.sqrt(share / wrong.numel())
    assert share == pytest.approx(unstable_bit_rate(load), abs=error + 2e-4)  # plus terms of order 1/n


def test_the_projection_rule_keeps_far_more():
    n = 100
    xi = patterns(60, n)
    kept = {}
    for rule in ("hebb", "projection"):
        found = HopfieldNetwork.store(xi, rule).recall(xi, generator=generator())
        kept[rule] = float((found.states == xi).all(1).double().mean())
    assert kept["projection"] == 1
    assert kept["hebb"] < 0.1


def test_the_same_generator_gives_the_same_states():
    xi = patterns(40, 100)
    runs = [HopfieldNetwork.store(xi).recall(flipped(xi, 0.3), generator=generator()) for _ in range(2)]
    assert torch.equal(runs[0].states, runs[1].states)


def test_what_it_refuses():
    with pytest.raises(SettingError, match=r"\+1 and -1"):
        HopfieldNetwork.store(torch.zeros(2, 3))
    with pytest.raises(SettingError, match="hebb"):
        HopfieldNetwork.store(patterns(2, 3), "other")  # pyright: ignore[reportArgumentType]
    network = HopfieldNetwork.store(patterns(2, 4))
    with pytest.raises(SettingError, match="starts must be states"):
        network.recall(patterns(2, 3), generator=generator())
    with pytest.raises(SettingError, match="sweeps"):
        network.recall(patterns(2, 4), generator=generator(), sweeps=0)
    with pytest.raises(SettingError, match="load"):
        unstable_bit_rate(0.0)
