"""Correlations with the identity and with constants."""

import numpy as np
import pytest
import torch

from torchstone.errors import SettingError
from torchstone.memory import identity_correlations


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_correlations_are_numpy_s():
    x, f, stored = drawn(4, 2, 3), drawn(4, 2, 3, seed=1), drawn(3, 2, 3, seed=2)
    found = identity_correlations(x, f, stored)
    for row in range(4):
        output = f[row].flatten().numpy()
        assert float(found.identity[row]) == pytest.approx(
            np.corrcoef(x[row].flatten(), output)[0, 1], abs=1e-6
        )
        each = [np.corrcoef(one.flatten(), output)[0, 1] for one in stored]
        assert float(found.constant[row]) == pytest.approx(max(each), abs=1e-6)
        assert int(found.nearest[row]) == int(np.argmax(each))


def test_the_identity_and_a_constant_function():
    x, stored = drawn(5, 8), drawn(2, 8, seed=1)
    same = identity_correlations(x, 3 * x + 1, stored)
    assert same.identity.tolist() == pytest.approx([1] * 5)
    fixed = identity_correlations(x, stored[1].expand(5, 8), stored)
    assert fixed.constant.tolist() == pytest.approx([1] * 5)
    assert fixed.nearest.tolist() == [1] * 5


def test_constant_rows_have_no_correlation():
    found = identity_correlations(torch.ones(1, 4), drawn(1, 4), torch.ones(2, 4))
    assert bool(found.identity.isnan().all())
    assert bool(found.constant.isnan().all())


def test_shapes_that_differ_are_refused():
    with pytest.raises(SettingError, match="one shape"):
        identity_correlations(drawn(2, 3), drawn(2, 2), drawn(2, 3))
