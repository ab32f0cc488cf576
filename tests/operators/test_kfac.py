"""K-FAC against exact blocks where it is exact: its scale, its order of parameters, its inverse."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import BlockDiagonal, GaussNewton, KroneckerCurvature, inverse

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("curvlinops") is None, reason="needs curvlinops, which `make setup` installs"
)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def mlp(outputs: int = 3) -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs, bias=False)))


@pytest.mark.parametrize("corrected", [False, True], ids=["kfac", "ekfac"])
@pytest.mark.parametrize(
    ("model", "objective", "target"),
    [
        (mlp(), Classification(), torch.tensor([2])),
        (mlp(1), Classification(), torch.tensor([1])),  # a single logit
        (mlp(), Regression(), drawn(1, 3, seed=1)),
        (mlp(1), Regression(), drawn(1, seed=1)),  # targets without the outputs' dimension
    ],
    ids=["softmax", "single logit", "regression", "flat targets"],
)
def test_one_example_is_exact(corrected: bool, model: nn.Module, objective: Any, target: Tensor) -> None:
    """a a^T (x) g g^T has no mean over examples that could be taken apart."""
    specimen = Specimen(model, objective, (drawn(1, 5), target))
    exact = BlockDiagonal(GaussNewton(specimen)).to_dense()
    K = KroneckerCurvature(specimen, corrected=corrected)
    assert error(K.to_dense(), exact) < 1e-12
    inverted = torch.linalg.inv(exact + 0.1 * torch.eye(len(exact), dtype=torch.float64))
    assert error(K.inverse(0.1).to_dense(), inverted) < 1e-10


@pytest.mark.parametrize("corrected", [False, True], ids=["kfac", "ekfac"])
def test_a_linear_network_with_squared_error_is_exact_for_any_number_of_examples(corrected: bool) -> None:
    """Output gradients do not vary; ragged batches of 4, 4 and 3 tell whether means are means over examples."""
    model = randomised(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)))
    specimen = Specimen(model, Regression(), (drawn(11, 5), drawn(11, 3, seed=1)), batch_size=4)
    exact = BlockDiagonal(GaussNewton(specimen)).to_dense()
    K = KroneckerCurvature(specimen, corrected=corrected)
    # EKFAC estimates eigenvalues from the same gradients, so it is exact as well.
    assert error(K.to_dense(), exact) < 1e-12


def test_a_convolution_over_the_whole_image_is_exact() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2)))
    specimen = Specimen(model, Regression(), (drawn(6, 2, 3, 3), drawn(6, 2, seed=1)), batch_size=4)
    exact = BlockDiagonal(GaussNewton(specimen)).to_dense()
    assert error(KroneckerCurvature(specimen).to_dense(), exact) < 1e-12


def test_the_correction_is_the_best_diagonal_in_the_eigenbasis() -> None:
    """Of a softmax network on many examples: EKFAC is nearer than K-FAC, and has the exact block's trace."""
    specimen = Specimen(mlp(), Classification(), (drawn(20, 5), torch.arange(20) % 3), batch_size=8)
    exact = BlockDiagonal(GaussNewton(specimen)).to_dense()
    plain = KroneckerCurvature(specimen).to_dense()
    corrected = KroneckerCurvature(specimen, corrected=True).to_dense()
    assert 1e-3 < error(corrected, exact) < error(plain, exact) < 1
    assert float(corrected.trace()) == pytest.approx(float(exact.trace()), rel=1e-12)


def test_it_preconditions_the_inverse_of_exact_blocks() -> None:
    model = randomised(nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 3)))
    scale = torch.logspace(-1, 1, 10, dtype=torch.float64)
    specimen = Specimen(model, Classification(), (drawn(60, 10) * scale, torch.arange(60) % 3))
    A = BlockDiagonal(GaussNewton(specimen))
    b = drawn(A.shape[0], seed=4)
    plain = inverse(A, 1e-3)
    exact = torch.linalg.solve(A.to_dense() + 1e-3 * torch.eye(len(b), dtype=torch.float64), b)
    assert error(plain.matvec(b), exact) < 1e-5
    for corrected in (False, True):
        helper = KroneckerCurvature(specimen, corrected=corrected).inverse(1e-3)
        helped = inverse(A, 1e-3, preconditioner=helper)
        assert error(helped.matvec(b), exact) < 1e-5
        assert helped.solver.products < 0.5 * plain.solver.products


def test_some_layers_only() -> None:
    model = randomised(nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)))
    specimen = Specimen(model, Regression(), (drawn(1, 5), drawn(1, 3, seed=1)))
    with pytest.raises(
        SettingError, match=r"single Linear and Conv2d layers; got 1.weight, of another layer"
    ):
        KroneckerCurvature(specimen)
    names = ["0.weight", "0.bias", "2.bias"]
    exact = BlockDiagonal(GaussNewton(specimen, names=names)).to_dense()
    assert error(KroneckerCurvature(specimen, names=names).to_dense(), exact) < 1e-12


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_what_it_cannot_do_is_refused() -> None:
    data = drawn(4, 5), torch.tensor([0, 1, 2, 0])
    for model, text in (
        (_Twice(), "once a batch; got layer, called 2 times"),
        (_Tied(), r"got first.weight, shared by several layers"),
    ):
        with pytest.raises(SettingError, match=text):
            KroneckerCurvature(Specimen(model.double(), Classification(), data))
    attention = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).double()
    names = ["self_attn.out_proj.weight"]
    specimen = Specimen(attention, Regression(), (drawn(3, 2, 4), drawn(3, 2, 4)))
    with pytest.raises(SettingError, match=r"once a batch; got self_attn.out_proj, called 0 times"):
        KroneckerCurvature(specimen, names=names)
    with pytest.raises(SettingError, match=r"float32 or float64; got half precision in 0.weight"):
        KroneckerCurvature(Specimen(mlp().bfloat16(), Classification(), data))
    pixels = Specimen(
        nn.Conv2d(1, 2, 1), Classification(), (torch.ones(2, 1, 3, 3), torch.zeros(2, 3, 3).long())
    )
    with pytest.raises(SettingError, match="one label an example, and for Regression; got Classification"):
        KroneckerCurvature(pixels)
    words = Specimen(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), CausalLM(), torch.zeros(2, 3).long())
    with pytest.raises(SettingError, match="and for Regression; got CausalLM"):
        KroneckerCurvature(words, names=["1.weight"])
    with pytest.raises(SpecimenError, match="label for every example"):
        KroneckerCurvature(Specimen(mlp(), Classification(), (data[0], torch.tensor([0, 1, -100, 0]))))
    K = KroneckerCurvature(Specimen(mlp(), Classification(), data))
    with pytest.raises(SettingError, match="damping must be positive; got 0"):
        K.inverse(0)


def test_the_model_is_left_as_it_was() -> None:
    model = mlp().train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    rng = torch.random.get_rng_state()
    KroneckerCurvature(Specimen(model, Classification(), (drawn(4, 5), torch.tensor([0, 1, 2, 0])))).inverse(
        0.1
    )
    assert model.training
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(rng, torch.random.get_rng_state())


def test_without_the_package_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with pytest.raises(SettingError, match=r'pip install "torchstone\[kfac\]"'):
        KroneckerCurvature(Specimen(mlp(), Classification(), (drawn(2, 5), torch.tensor([0, 1]))))
