from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.specimens.threads import SMALL, threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("parameters", "expected"), [(SMALL - 1, 1), (SMALL, 2)])
@pytest.mark.parametrize("built_in", [True, False])
def test_small_networks_take_one_thread(parameters: int, expected: int, built_in: bool) -> None:
    with threads(None, built_in) as settle:
        assert torch.get_num_threads() == (1 if built_in else 2)
        settle(parameters)
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_a_wish_is_a_wish_and_ends_with_an_error_too() -> None:
    with contextlib.suppress(KeyError), threads(3, True) as settle:
        settle(1)
        assert torch.get_num_threads() == 3
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_environment_is_respected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    with threads(None, True) as settle:
        settle(1)
        assert torch.get_num_threads() == 2


def test_what_the_users_code_sets_is_respected() -> None:
    with threads(None, False) as settle:
        torch.set_num_threads(3)
        settle(1)
        assert torch.get_num_threads() == 3


def test_no_thread_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 1"), threads(0, True):
        pass
