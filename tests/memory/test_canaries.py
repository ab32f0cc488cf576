"""Canaries: every sequence of a format is numbered once, drawn as often, and planted as often as asked."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchstone.errors import SettingError
from torchstone.memory.canaries import CanaryFormat, planted

FORM = CanaryFormat((9, None, 8, None, 7), (3, 0, 5))


def test_the_sequences_of_a_format() -> None:
    assert FORM.places == (1, 3)
    assert FORM.size == 9
    expected = [[9, a, 8, b, 7] for a, b in itertools.product((3, 0, 5), repeat=2)]
    assert FORM.sequences().tolist() == expected
    assert [len(chunk) for chunk in FORM.chunks(4)] == [4, 4, 1]
    assert torch.cat(list(FORM.chunks(4))).tolist() == expected


@given(st.integers(1, 3), st.permutations(list(range(6))).map(lambda p: tuple(p[:4])), st.integers(0, 3))
def test_numbers_and_sequences_are_inverse(places: int, alphabet: tuple[int, ...], fixed: int) -> None:
    form = CanaryFormat((11, *[None] * places, *[12] * fixed), alphabet)
    numbers = torch.arange(form.size)
    assert torch.equal(form.numbers_of(form.numbered(numbers)), numbers)
    assert len(form.sequences().unique(dim=0)) == form.size


def test_draws_are_uniform() -> None:
    counts = FORM.numbers_of(FORM.draw(9000, torch.Generator().manual_seed(0))).bincount(minlength=9)
    statistic = float((counts - 1000).square().sum() / 1000)
    assert statistic < 26.1  # chi-squared with 8 degrees of freedom, 0.1%


def test_the_format_of_a_canary() -> None:
    form = CanaryFormat.of((9, 0, 8, 5, 7), (3, 1), (3, 0, 5))
    assert form == FORM
    for secret in ((1, 5), (0, 1)):  # beyond the end; a token that is not of the alphabet
        with pytest.raises(SettingError, match="hold tokens of the alphabet"):
            CanaryFormat.of((9, 0, 8, 5, 7), secret, (3, 0, 5))


def test_sequences_of_another_format_are_refused() -> None:
    for strange in ([9, 3, 8, 3, 6], [9, 1, 8, 3, 7]):
        with pytest.raises(SettingError, match="fixed tokens"):
            FORM.numbers_of(torch.tensor([strange]))


@pytest.mark.parametrize(
    ("template", "alphabet"),
    [((), (0, 1)), ((None, 1), (0, 1)), ((1, 2), (0, 1)), ((1, None), (0,)), ((1, None), (0, 0))],
)
def test_formats_without_a_secret(template: tuple[int | None, ...], alphabet: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="A canary"):
        CanaryFormat(template, alphabet)


def test_planting() -> None:
    data = torch.zeros(20, 5, dtype=torch.long)
    canaries = FORM.numbered(torch.tensor([2, 5]))
    found = planted(data, canaries, 3, torch.Generator().manual_seed(0))
    assert found.shape == (26, 5)
    for canary in canaries:
        assert int((found == canary).all(1).sum()) == 3
    assert not bool((found[:20] == 0).all())  # not just appended
    assert torch.equal(planted(data, canaries, 0, torch.Generator()), data)


@pytest.mark.parametrize(
    ("data", "canaries", "times"), [((4, 5), (1, 4), 1), ((4, 5), (5,), 1), ((4, 5), (1, 5), -1)]
)
def test_planting_what_does_not_fit(data: tuple[int, ...], canaries: tuple[int, ...], times: int) -> None:
    with pytest.raises(SettingError, match="planted among sequences of their length"):
        planted(torch.zeros(data), torch.zeros(canaries), times, torch.Generator())
