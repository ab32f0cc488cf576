"""Outliers with and without batch normalisation: gates, and the eigenvalues against a dense Hessian."""

import pytest
import torch

from torchstone.atlas.claims.signal import batch_norm_removes_outliers as module
from torchstone.atlas.conformance import ClaimConformance


class TestBatchNormRemovesOutliers(ClaimConformance):
    id = "batch_norm_removes_outliers"

    def test_the_ratio_falls_by_more_than_two(self):
        assert self.measured("outlier ratio without over with batch normalisation, median of 5 seeds") > 2


@pytest.mark.parametrize("normalised", [False, True])
def test_eigenvalues_are_those_of_the_dense_hessian_with_batch_statistics(normalised: bool):
    # Differences of gradients: torch.func's Hessian through batch statistics disagrees with them.
    generator = torch.Generator().manual_seed(0)
    model = module.network(normalised, 1, generator).double()
    x, y = module.images(60)
    parameters = list(model.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])

    def gradient(at: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(at, parameters)
        loss = torch.nn.functional.cross_entropy(model.train()(x.double()), y)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    steps = 1e-6 * torch.eye(len(flat), dtype=torch.float64)
    dense = torch.stack([(gradient(flat + step) - gradient(flat - step)) / 2e-6 for step in steps])
    gradient(flat)
    values = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0)[: module.CLASSES + 1]
    found = module.spectrum(model, "as_is", 60, generator)
    assert float(found[0]) == pytest.approx(float(values[0]), rel=1e-2)
    assert float(module.outlier_ratio(found)) == pytest.approx(float(module.outlier_ratio(values)), rel=0.05)


def test_networks_with_and_without_start_from_the_same_weights():
    one, two = (module.network(kind, 3, torch.Generator().manual_seed(4)) for kind in (False, True))
    first = [p for p in one.parameters() if p.ndim > 1]
    second = [p for p in two.parameters() if p.ndim > 1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
