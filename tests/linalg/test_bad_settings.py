"""Counts that are no whole numbers, and randomness that is no generator, are refused in words everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchstone import linalg
from torchstone.errors import SettingError

COUNTS = [
    ("hutchinson_trace", "probes", {}),
    ("hutchinson_trace", "block", {"probes": 10}),
    ("hutchinson_trace", "max_probes", {"tolerance": 0.1}),
    ("hutch_plus_plus", "products", {}),
    ("xtrace", "products", {}),
    ("trace", "max_products", {}),
    ("trace", "max_sketch", {}),
    ("exact_trace", "block", {}),
    ("xdiag", "products", {}),
    ("hutchinson_diagonal", "probes", {}),
    ("frobenius_norm", "probes", {}),
    ("lanczos_quadrature", "probes", {"steps": 10}),
    ("lanczos_quadrature", "steps", {"probes": 2}),
    ("lanczos", "steps", {}),
    ("golub_kahan", "steps", {}),
    ("top_eigenpairs", "k", {}),
    ("singular_triplets", "k", {}),
    ("randomised_svd", "rank", {}),
    ("randomised_svd", "power_iterations", {"rank": 2}),
]


def call(routine: str, **settings: Any) -> Any:
    given = {} if routine == "exact_trace" else {"generator": torch.Generator()}
    return getattr(linalg, routine)(torch.eye(100), **{**given, **settings})


@pytest.mark.parametrize("count", [2.5, "12", 12.0, None])
@pytest.mark.parametrize(("routine", "name", "others"), COUNTS)
def test_counts(routine: str, name: str, others: dict[str, Any], count: Any) -> None:
    if count is None and (routine, name) in {("hutchinson_trace", "probes"), ("frobenius_norm", "probes")}:
        pytest.skip("None asks for a tolerance instead")
    with pytest.raises(SettingError, match=f"{name} must be .*got .*{str(count)[:2]}"):
        call(routine, **{**others, name: count})


GENERATORS = [
    ("hutchinson_trace", {"probes": 5}),
    ("hutch_plus_plus", {"products": 9}),
    ("xtrace", {"products": 8}),
    ("trace", {}),
    ("xdiag", {"products": 8}),
    ("hutchinson_diagonal", {"probes": 5}),
    ("frobenius_norm", {"probes": 5}),
    ("lanczos_quadrature", {"probes": 2, "steps": 10}),
    ("top_eigenpairs", {"k": 2}),
    ("singular_triplets", {"k": 2}),
    ("randomised_svd", {"rank": 2}),
    ("golub_kahan", {"steps": 3}),
]


@pytest.mark.parametrize("generator", [None, 0])
@pytest.mark.parametrize(("routine", "settings"), GENERATORS)
def test_generators(routine: str, settings: dict[str, Any], generator: Any) -> None:
    with pytest.raises(SettingError, match=f"generator must be a torch.Generator; got {generator}"):
        call(routine, generator=generator, **settings)
