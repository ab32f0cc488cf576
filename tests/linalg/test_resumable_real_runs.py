"""Runs on a network's Hessian and in a process of their own that are killed and go on."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.linalg import FunctionMap, ResumableMap, randomised_svd
from torchstone.objectives import Regression
from torchstone.operators import Hessian
from torchstone.specimen import Specimen


class Killed(Exception):
    """Stands for a process that dies in the middle of a product."""


def assert_same(one: Any, other: Any) -> None:
    """To the bit, in every field."""
    for field in dataclasses.fields(one):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(mine, its) if isinstance(mine, Tensor) else mine == its, field.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_killed_run_on_a_network_goes_on(dtype: torch.dtype, seeded: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=seeded(3)).mul_(0.4)
    x = torch.randn(12, 4, generator=seeded(0)).to(dtype)
    specimen = Specimen(model.to(dtype), Regression(), (x, x[:, :2].sin()), batch_size=5).prepared()
    path = tmp_path / "run"
    with ResumableMap(Hessian(specimen), path) as kept:
        whole = randomised_svd(kept, 3, generator=seeded(1))
    H, left = Hessian(specimen), [40]
    product = H.matmat

    def dying(X: Tensor) -> Tensor:
        left[0] -= X.shape[1]
        if left[0] < 0:
            raise Killed
        return product(X)

    H.matmat = dying
    with pytest.raises(Killed), ResumableMap(H, path) as kept:
        randomised_svd(kept, 3, generator=seeded(1))
    left[0] = whole.products - 39 + 1  # 13 columns go as 10 and 3, so 39 were done; one tells the network
    with ResumableMap(H, path) as kept:
        assert_same(randomised_svd(kept, 3, generator=seeded(1)), whole)
    assert left[0] == 0


SCRIPT = """
import os, signal, sys, torch
from torchstone.linalg import FunctionMap, ResumableMap, randomised_svd
torch.set_num_threads(int(sys.argv[2]))
M, left = torch.diag(torch.linspace(1, 2, 40)), [35]
def product(X):
    left[0] -= X.shape[1]
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return M @ X
A = FunctionMap(product, (40, 40), block=True, symmetric=True)
with ResumableMap(A, sys.argv[1]) as kept:
    randomised_svd(kept, 5, generator=torch.Generator().manual_seed(0))
"""


def test_a_process_that_is_killed_leaves_its_products(seeded: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = [sys.executable, "-c", SCRIPT, str(path), str(torch.get_num_threads())]
    assert subprocess.run(script, check=False).returncode == -9
    M, spent = torch.diag(torch.linspace(1, 2, 40)), [0]

    def product(X: Tensor) -> Tensor:
        spent[0] += X.shape[1]
        return M @ X

    with ResumableMap(FunctionMap(product, (40, 40), block=True, symmetric=True), path) as kept:
        resumed = randomised_svd(kept, 5, generator=seeded(0))
    assert spent[0] == resumed.products - 30 + 1  # 15 columns go as 10 and 5
    with ResumableMap(M, path) as kept:
        assert_same(randomised_svd(kept, 5, generator=seeded(0)), resumed)
