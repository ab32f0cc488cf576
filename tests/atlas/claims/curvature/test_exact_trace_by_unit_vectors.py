"""Exact traces by unit vectors: the gate of 1e-9, for maps whose entries no one looks at."""

import pytest
import torch

from torchstone.atlas.claims.curvature import exact_trace_by_unit_vectors as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.linalg import as_linear_map, exact_trace


class TestExactTraceByUnitVectors(ClaimConformance):
    id = "exact_trace_by_unit_vectors"

    @pytest.mark.parametrize("name", ["not symmetric", "Hessian of a network", "one by one"])
    def test_sum_of_the_eigenvalues_to_1e_9(self, name):
        [check] = [c for c in self.result.evidence.checks if c.name == f"trace, {name}"]
        assert abs(check.measured / check.expected - 1) < 1e-9

    def test_n_products(self):
        assert self.measured("products spent over n") == 1


def test_networks_have_at_most_2000_parameters():
    generator = torch.Generator().manual_seed(0)
    assert [module.network_hessian(width, generator).shape[0] for width in (20, 36)] == [663, 1767]


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65])
def test_without_a_transpose_the_diagonal_comes_out_as_a_vector(n):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    A = as_linear_map(matrix)
    assert torch.equal(module.sum_without_transpose(A), matrix.diagonal())
    assert exact_trace(A) == pytest.approx(
        float(torch.linalg.eigvals(matrix).sum().real), rel=1e-9, abs=1e-12
    )
    if n > 1:
        column = torch.zeros(n, 1, dtype=torch.float64)
        with pytest.raises(RuntimeError):
            torch.linalg.multi_dot([column, matrix, column])
