from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.errors import NumericalError
from torchstone.linalg import FunctionMap, as_linear_map, lanczos
from torchstone.linalg.lanczos_columns import lanczos_columns

spectra = st.lists(
    st.one_of(st.integers(-2, 2).map(float), st.floats(-100, 100, allow_subnormal=False)),
    min_size=1,
    max_size=20,
)


@given(spectra, st.integers(1, 25), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_every_column_gets_the_gauss_rule_of_lanczos(seeded, with_spectrum, spectrum, steps, seed):
    # T itself is ill conditioned near a breakdown; its Gauss rule is not: moments up to degree 2m - 1.
    matrix = with_spectrum(torch.tensor(spectrum), seed)
    starts = torch.randn(len(spectrum), 3, generator=seeded(seed), dtype=torch.float64)
    scale = max(map(abs, spectrum)) or 1.0
    for start, run in zip(starts.T, lanczos_columns(as_linear_map(matrix), starts, steps), strict=True):
        assert len(run.diagonal) <= min(steps, len(spectrum))
        assert run.breakdown or len(run.diagonal) == steps
        one = lanczos(matrix, 2, start=start.clone())
        torch.testing.assert_close(run.diagonal[:1], one.diagonal[:1], rtol=1e-12, atol=1e-12)
        unit, power = start / start.norm(), start / start.norm()
        nodes, vectors = torch.linalg.eigh(run.leading(len(run.diagonal)) / scale)
        for p in range(2 * len(run.diagonal) + 6 * run.breakdown):  # then the rule is exact for good
            assert float(vectors[0].square() @ nodes**p) == pytest.approx(float(unit @ power), abs=1e-10)
            power = matrix @ power / scale


def test_orthogonality_where_ritz_values_have_long_converged(seeded, with_spectrum):
    eigenvalues = torch.cat([torch.tensor([1e6, 1e3, 10.0]), torch.linspace(0, 1, 297)]).double()
    starts = torch.randn(300, 4, generator=seeded(0), dtype=torch.float64)
    for run in lanczos_columns(as_linear_map(with_spectrum(eigenvalues)), starts, 150):
        ritz = torch.linalg.eigvalsh(run.leading(150))
        torch.testing.assert_close(ritz[-3:], torch.tensor([10.0, 1e3, 1e6]).double(), rtol=1e-9, atol=0)
        assert int((ritz > 5).sum()) == 3


def test_columns_end_each_at_its_own_time_and_cost_nothing_afterwards(seeded):
    widths = []

    def product(X: torch.Tensor) -> torch.Tensor:
        widths.append(X.shape[1])
        return torch.arange(1.0, 7.0).double()[:, None] * X

    A = FunctionMap(product, (6, 6), torch.float64, block=True, symmetric=True)
    starts = torch.zeros(6, 3, dtype=torch.float64)
    starts[0, 0] = 1  # an eigenvector
    starts[:2, 1] = 1  # two of them
    starts[:, 2] = 1  # all
    runs = lanczos_columns(A, starts, 4)
    assert [len(run.diagonal) for run in runs] == [1, 2, 4]
    assert [run.breakdown for run in runs] == [True, True, False]
    assert widths == [3, 2, 1, 1]
    assert lanczos_columns(A, starts[:, 2:], 6)[0].breakdown


def test_zero_maps_and_false_claims_of_symmetry(seeded):
    starts = torch.randn(5, 2, generator=seeded(0), dtype=torch.float64)
    for run in lanczos_columns(as_linear_map(torch.zeros(5, 5).double()), starts, 3):
        assert (run.diagonal.tolist(), run.breakdown) == ([0.0], True)
    triangle = torch.ones(5, 5).double().triu()
    with pytest.raises(NumericalError, match="is declared symmetric"):
        lanczos_columns(as_linear_map(triangle, symmetric=True), starts, 3)
