from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import Classification, Regression
from torchstone.operators import GaussNewton, Hessian

NAMES = (
    "tanh mlp",
    "relu regression",
    "batch norm cnn",
    "tied",
    "unused and frozen",
    "lstm",
    "gru",
    "attention",
    "transformer",
    "linear",
)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("memory_bytes", [2**29, 0], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("name", NAMES)
def test_hessian_is_the_dense_one(
    name: str, memory_bytes: int, awkward: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    case = awkward(name)
    H = Hessian(case.specimen, memory_bytes=memory_bytes)
    assert error(H.to_dense(block=7), dense_hessian(case)) < 1e-12
    assert H.how == "double backward"


@pytest.mark.parametrize("memory_bytes", [2**29, 0], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("name", NAMES)
def test_gauss_newton_is_the_dense_one(
    name: str, memory_bytes: int, awkward: Any, dense_gauss_newton: Callable[[Any], Tensor]
) -> None:
    case = awkward(name)
    G = GaussNewton(case.specimen, memory_bytes=memory_bytes)
    assert error(G.to_dense(block=7), dense_gauss_newton(case)) < 1e-12


@pytest.mark.parametrize("name", ["tanh mlp", "lstm", "attention", "transformer"])
def test_hessian_agrees_with_differences_of_gradients(name: str, awkward: Any) -> None:
    """Independent of automatic second derivatives, for smooth networks."""
    case = awkward(name)
    H = Hessian(case.specimen)
    v = torch.randn(H.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step, ends = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, part in zip(H.space.parameters, H.space.unflatten(v), strict=True):
                parameter.add_(sign * step * part)
        ends.append(torch.cat([g.reshape(-1) for g in case.specimen.gradient().values()]))
        with torch.no_grad():
            for parameter, part in zip(H.space.parameters, H.space.unflatten(v), strict=True):
                parameter.sub_(sign * step * part)
    assert error(H.matvec(v), (ends[0] - ends[1]) / (2 * step)) < 1e-7


def test_squared_error_of_a_linear_network_has_the_normal_matrix() -> None:
    x = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    specimen = Specimen(
        nn.Linear(4, 1, bias=False).double(), Regression(), (x, torch.zeros(9, 1).double()), batch_size=2
    )
    assert error(Hessian(specimen).to_dense(), 2 * x.T @ x / 9) < 1e-13


def test_a_block_of_some_parameters(awkward: Any, dense_hessian: Callable[[Any], Tensor]) -> None:
    case = awkward("tanh mlp")
    block = Hessian(case.specimen, names=["2.weight", "0.bias"])
    assert block.space.names == ("0.bias", "2.weight")  # in the model's order
    chosen = torch.cat([torch.arange(20, 24), torch.arange(24, 36)])
    assert error(block.to_dense(), dense_hessian(case)[chosen][:, chosen]) < 1e-12


def test_an_update_of_the_parameters_is_noticed(awkward: Any, dense_hessian: Callable[[Any], Tensor]) -> None:
    case = awkward("tanh mlp")
    H = Hessian(case.specimen)
    H.to_dense()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.5)
    for parameter in case.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert error(H.to_dense(), dense_hessian(case)) < 1e-12


class _OnceOnly(torch.autograd.Function):
    """tanh whose backward pass PyTorch knows not to be differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2)


class _Silent(_OnceOnly):
    """tanh whose backward pass leaves no graph, as that of a foreign kernel."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return gradient * (1 - x.tanh() ** 2)


class _Proper(_OnceOnly):
    """tanh that can be differentiated any number of times."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2)


class _Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


@pytest.mark.parametrize("function", [_OnceOnly, _Silent])
def test_without_second_derivatives_differences_are_used_and_said(
    function: Any,
    awkward: Any,
    make_case: Any,
    dense_hessian: Callable[[Any], Tensor],
    dense_gauss_newton: Callable[[Any], Tensor],
) -> None:
    plain = awkward("tanh mlp")
    custom = nn.Sequential(plain.model[0], _Custom(function), plain.model[2])
    case = make_case(custom, (5,))
    before = [parameter.detach().clone() for parameter in custom.parameters()]
    H, G = Hessian(case.specimen), GaussNewton(case.specimen)
    assert error(H.to_dense(), dense_hessian(plain)) < 1e-8
    assert error(G.to_dense(), dense_gauss_newton(plain)) < 1e-8
    for operator in (H, G):
        assert operator.how == (
            f"central differences (the second derivative of {function.__name__} is incomplete)"
        )
    assert all(torch.equal(a, b) for a, b in zip(before, custom.parameters(), strict=True))


def test_a_custom_function_with_second_derivatives_is_trusted(
    awkward: Any, make_case: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    plain = awkward("tanh mlp")
    case = make_case(nn.Sequential(plain.model[0], _Custom(_Proper), plain.model[2]), (5,))
    H = Hessian(case.specimen)
    assert error(H.to_dense(), dense_hessian(plain)) < 1e-12
    assert H.how == "double backward, through _Proper too, which agreed with differences to 2%"


def test_a_kernel_that_refuses_is_replaced_by_differences(
    awkward: Any, make_case: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    """A network that insists on flash attention, against the same one that does not."""

    class Insists(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                return self.inner(x)

    plain = awkward("attention")
    case = make_case(Insists(plain.model), (4, 4))
    H, G = Hessian(case.specimen), GaussNewton(case.specimen)
    assert error(H.to_dense(), dense_hessian(plain)) < 1e-8
    assert "flash_attention_for_cpu_backward is not implemented" in H.how
    assert error(G.to_dense(), GaussNewton(plain.specimen).to_dense()) < 1e-8


def test_a_custom_loss_without_second_derivative(
    awkward: Any, dense_hessian: Callable[[Any], Tensor], dense_gauss_newton: Callable[[Any], Tensor]
) -> None:
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, scores: Tensor, labels: Tensor) -> Tensor:
            ctx.save_for_backward(scores, labels)
            return nn.functional.cross_entropy(scores, labels, reduction="none")

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            scores, labels = ctx.saved_tensors
            one_hot = nn.functional.one_hot(labels, scores.shape[1])
            return (scores.detach().softmax(1) - one_hot) * gradient.detach()[:, None], None

    class FusedClassification(Classification):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return Fused.apply(outputs, batch[1])

    plain = awkward("tanh mlp")
    specimen = Specimen(plain.model, FusedClassification(), plain.whole, batch_size=4)
    assert error(Hessian(specimen).to_dense(), dense_hessian(plain)) < 1e-8
    assert error(GaussNewton(specimen).to_dense(), dense_gauss_newton(plain)) < 1e-8


def test_kernels_are_switched_back(awkward: Any) -> None:
    case = awkward("attention")
    flags = lambda: (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
    )
    before = flags()
    H = Hessian(case.specimen)
    H.matvec(torch.ones(H.shape[0], dtype=torch.float64))
    recurrent = Hessian(awkward("lstm").specimen)
    recurrent.matvec(torch.ones(recurrent.shape[0], dtype=torch.float64))
    assert flags() == before


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_lower_precision(
    dtype: torch.dtype,
    tolerance: float,
    awkward: Any,
    make_case: Any,
    dense_hessian: Callable[[Any], Tensor],
) -> None:
    case = awkward("batch norm cnn")
    exact = dense_hessian(case)
    low = make_case(case.model, (1, 7, 7), dtype=dtype)
    H = Hessian(low.specimen)
    assert H.dtype == torch.float32
    assert error(H.to_dense(), exact) < tolerance


def test_one_batch_or_many_is_the_same_up_to_rounding(awkward: Any) -> None:
    case = awkward("tanh mlp")
    one = Specimen(case.model, Classification(), case.whole, batch_size=100)
    assert error(Hessian(one).to_dense(), Hessian(case.specimen).to_dense()) < 1e-13


def test_batch_statistics_in_training_mode(make_case: Any, dense_hessian: Callable[[Any], Tensor]) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    case = make_case(model, (5,), mode="as_is", batch_size=100)
    model.train()
    H = Hessian(case.specimen)
    dense = H.to_dense()
    assert error(dense, dense.T) < 1e-12
    assert error(dense, dense_hessian(case)) < 1e-10


def test_affine_losses_have_no_curvature(make_case: Any) -> None:
    class Affine(Regression):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.sum(1)

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    specimen = Specimen(nn.Linear(3, 2).double(), Affine(), (x, torch.zeros(5, 2).double()))
    for kind in (Hessian, GaussNewton):
        operator = kind(specimen)
        assert float(operator.to_dense().abs().max()) == 0.0


def test_nothing_to_differentiate_is_refused(awkward: Any) -> None:
    case = awkward("linear")
    frozen = nn.Linear(2, 2).requires_grad_(False)
    specimen = Specimen(frozen, Classification(), (torch.zeros(2, 2), torch.tensor([0, 1])))
    with pytest.raises(SpecimenError, match="at least one trainable parameter; got none"):
        Hessian(specimen)
    with pytest.raises(SettingError, match="names must be those of trainable parameters; got other"):
        Hessian(case.specimen, names=["other"])
    with pytest.raises(SettingError, match="names must hold at least one parameter"):
        Hessian(case.specimen, names=[])


def test_complex_parameters_are_refused() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.phase).abs()

    specimen = Specimen(Complex(), Classification(), (torch.ones(2, 2), torch.tensor([0, 1])))
    with pytest.raises(SpecimenError, match="real parameters; got complex phase"):
        Hessian(specimen)


def test_nothing_of_the_specimen_changes(awkward: Any) -> None:
    case = awkward("batch norm cnn")
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    case.model.train()
    for parameter in case.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    rng = torch.random.get_rng_state()
    H = Hessian(case.specimen)
    H.matmat(torch.ones(H.shape[0], 2, dtype=torch.float64))
    assert all(torch.equal(state[name], value) for name, value in case.model.state_dict().items())
    assert all(bool((p.grad == 1).all()) for p in case.model.parameters() if p.grad is not None)
    assert all(module.training for module in case.model.modules())
    assert torch.equal(rng, torch.random.get_rng_state())
