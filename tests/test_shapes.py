"""The shapes written in the numerical rooms' signatures are checked while tests run."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from torchstone.linalg.orthonormalise import column_norms, orthonormalise


def test_wrong_shapes_are_found() -> None:
    assert column_norms(torch.eye(3)).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError, match="columns"):
        column_norms(torch.zeros(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="basis"):
        orthonormalise(torch.zeros(4, 2), torch.zeros(5, 1))  # n is 4 and 5
