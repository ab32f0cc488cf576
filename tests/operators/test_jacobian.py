"""Jacobians against torch.func and loops over outputs, and as maps with transposes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import Classification, Regression
from torchstone.operators import GaussNewton, InputJacobian, LayerJacobian, ParameterJacobian, ntk
from torchstone.testing import dense_input_jacobian, dense_jacobian, zoo

CASES = ("tanh mlp", "relu regression", "batch norm cnn", "tied", "unused and frozen", "lstm", "gru")
CASES += ("attention", "transformer", "linear")
SMOOTH = ("tanh mlp", "lstm", "attention", "transformer")


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def numbers(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("memory_bytes", [2**29, 0], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("name", CASES)
def test_parameter_jacobian_is_the_dense_one(name: str, memory_bytes: int, awkward: Any) -> None:
    case = awkward(name)
    exact = dense_jacobian(case.specimen).flatten(0, 1)
    J = ParameterJacobian(case.specimen, memory_bytes=memory_bytes)
    assert J.shape == exact.shape
    assert error(J.T.to_dense(block=7).T, exact) < 1e-13
    assert error(J.to_dense(block=7), exact) < 1e-13
    assert error(J.T.matvec(numbers(exact.shape[0])), exact.T @ numbers(exact.shape[0])) < 1e-13
    assert J.how == "double backward"


@pytest.mark.parametrize("name", ["tanh mlp", "relu regression", "batch norm cnn", "tied", "linear"])
def test_parameter_jacobian_is_that_of_torch_func(name: str, awkward: Any) -> None:
    case = awkward(name)
    parameters = {key: value.detach() for key, value in case.specimen.trainable.items()}
    made = jacrev(lambda some: functional_call(case.model, some, (case.whole[0],)))(parameters)
    assert isinstance(made, dict)
    exact = torch.cat([part.flatten(0, 1).flatten(1) for part in made.values()], dim=1)
    J = ParameterJacobian(case.specimen)
    assert error(J.to_dense(), exact) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_input_jacobian_is_the_dense_one(name: str, awkward: Any) -> None:
    case = awkward(name)
    blocks = dense_input_jacobian(case.specimen)
    exact = torch.block_diag(*blocks)
    for memory_bytes in (2**29, 0):
        J = InputJacobian(case.specimen, memory_bytes=memory_bytes)
        assert error(J.to_dense(block=9), exact) < 1e-13
        assert error(J.T.to_dense(block=9).T, exact) < 1e-13
    one = InputJacobian(case.specimen, rows=5)
    assert one.shape == blocks[5].shape
    assert error(one.to_dense(), blocks[5]) < 1e-13
    some = InputJacobian(case.specimen, rows=torch.tensor([1, 4, 10]))
    assert error(some.T.to_dense(), torch.block_diag(*blocks[[1, 4, 10]]).T) < 1e-13


def test_input_jacobian_is_that_of_torch_func(awkward: Any) -> None:
    case = awkward("tanh mlp")
    exact = torch.func.vmap(jacrev(case.model))(case.whole[0])
    assert isinstance(exact, Tensor)
    assert error(InputJacobian(case.specimen).to_dense(), torch.block_diag(*exact.detach())) < 1e-10


def test_a_network_that_mixes_its_examples_has_a_block_a_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    data = numbers(7, 3), torch.zeros(7, dtype=torch.long)
    specimen = Specimen(model, Classification(), data, mode="as_is", batch_size=4)
    J = InputJacobian(specimen).to_dense()
    model.eval()
    for part in (slice(0, 4), slice(4, 7)):
        twin = nn.Sequential(*model)
        twin[1] = nn.BatchNorm1d(4, track_running_stats=False).double()
        exact = torch.autograd.functional.jacobian(twin, data[0][part])
        assert isinstance(exact, Tensor)
        rows, columns = slice(2 * part.start, 2 * part.stop), slice(3 * part.start, 3 * part.stop)
        assert error(J[rows, columns], exact.flatten(0, 1).flatten(1)) < 1e-12
    assert float(J[:8, 12:].abs().max()) == 0.0


def test_identities(awkward: Any) -> None:
    """<u, J v> = <J^T u, v>; J J^T is the tangent kernel; 2/N J^T J the Gauss-Newton matrix of squared error."""
    case = awkward("tied")
    J = ParameterJacobian(case.specimen)
    u, v = numbers(J.shape[0], seed=1), numbers(J.shape[1], seed=2)
    assert abs(float(u @ (J @ v) - (J.T @ u) @ v)) < 1e-12 * float(u.norm() * (J @ v).norm())
    outputs = J.shape[0] // 11
    kernel = ntk(case.specimen, outputs="all").values.permute(0, 2, 1, 3).reshape(J.shape[0], J.shape[0])
    assert kernel.shape[0] == 11 * outputs
    assert error((J @ J.T).to_dense(), kernel) < 1e-12
    G = GaussNewton(case.specimen).to_dense()
    squared = (J.T @ J).to_dense()
    assert error(squared * float(G.trace() / squared.trace()), G) < 1e-12
    assert error(J.T.T.to_dense(), J.to_dense()) < 1e-14


def test_batches_with_outputs_of_different_lengths() -> None:
    class PerStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.read = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.cells(x)[0])

    model = PerStep().double()
    data = [(numbers(n, t, 3, seed=t), numbers(n, t, 2, seed=t)) for n, t in ((3, 4), (2, 7), (1, 1))]
    specimen = Specimen(model, Regression(), data)
    J = ParameterJacobian(specimen)
    rows = []
    for x, _ in data:
        rows += [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(y, list(model.parameters()), retain_graph=True)
                ]
            )
            for y in model(x).flatten()
        ]
    exact = torch.stack(rows)
    assert J.shape == (2 * (12 + 14 + 1), exact.shape[1])
    assert error(J.to_dense(), exact) < 1e-12
    assert error(J.T.to_dense(), exact.T) < 1e-12
    U = InputJacobian(specimen)
    assert U.shape == (54, 3 * 27)
    assert error(U.T.to_dense().T, U.to_dense()) < 1e-12


def test_columns_of_some_parameters(awkward: Any) -> None:
    case = awkward("tanh mlp")
    J = ParameterJacobian(case.specimen, names=["2.weight", "0.bias"])
    exact = dense_jacobian(case.specimen).flatten(0, 1)[:, 20:36]
    assert error(J.to_dense(), exact) < 1e-13
    assert error(J.T.to_dense(), exact.T) < 1e-13


def test_an_update_of_any_parameter_is_noticed(awkward: Any) -> None:
    """Also of one that is not among the columns."""
    case = awkward("tanh mlp")
    J = ParameterJacobian(case.specimen, names=["0.weight"])
    J.to_dense()
    with torch.no_grad():
        case.model[2].weight.mul_(3)
    assert error(J.to_dense(), dense_jacobian(case.specimen).flatten(0, 1)[:, :20]) < 1e-13


class _Silent(torch.autograd.Function):
    """tanh whose backward pass leaves no graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return gradient * (1 - x.tanh() ** 2)


class _Custom(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return _Silent.apply(x)


def test_what_cannot_be_differentiated_twice(awkward: Any, make_case: Any) -> None:
    """Its pull-back is exact; its push-forward comes by differences, or is refused between layers."""
    plain = awkward("tanh mlp")
    case = make_case(nn.Sequential(plain.model[0], _Custom(), _Custom(), plain.model[2]), (5,))
    for kind, exact in (
        (ParameterJacobian, dense_jacobian(case.specimen).flatten(0, 1)),
        (InputJacobian, torch.block_diag(*dense_input_jacobian(case.specimen))),
    ):
        J = kind(case.specimen)
        assert error(J.T.to_dense(), exact.T) < 1e-13
        assert error(J.to_dense(), exact) < 1e-8
        assert "Silent is incomplete" in J.how
        assert error(J.T.to_dense(), exact.T) < 1e-13
    between = LayerJacobian(case.specimen, "0", "3")
    assert error(between.T.to_dense().T, torch.block_diag(*dense_input_jacobian(case.specimen))) < 1e-13
    with pytest.raises(SettingError, match="can be differentiated twice"):
        between.matvec(torch.ones(between.shape[1], dtype=torch.float64))


class _Residual(nn.Module):
    """x + tanh(Wx), then an activation in place, then a linear layer; the first layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.tanh(self.first(x))
        x = x + torch.tanh(self.first(x))
        return self.last(self.act(x))


def test_between_layers_against_the_whole_and_the_chain_rule(make_case: Any, awkward: Any) -> None:
    plain = awkward("relu regression")
    part = lambda source, target: LayerJacobian(plain.specimen, source, target).to_dense()
    assert error(part("", ""), InputJacobian(plain.specimen).to_dense()) < 1e-13
    assert error(part("1", "2") @ part("0", "0"), part("0", "2")) < 1e-13
    assert error(part("2", "2"), torch.block_diag(*[plain.model[2].weight.detach()] * 11)) < 1e-14


def test_skip_connections_and_repeated_calls_count(make_case: Any) -> None:
    case = make_case(_Residual().double(), (4,))
    # The first call's input is the network's: the identity past it counts.
    J = LayerJacobian(case.specimen, "first", "last")
    exact = torch.block_diag(*dense_input_jacobian(case.specimen))
    assert error(J.to_dense(), exact) < 1e-13
    assert error(J.T.to_dense(), exact.T) < 1e-13
    act = LayerJacobian(case.specimen, "act", "act").to_dense()
    assert set(act.unique().tolist()) <= {0.0, 1.0}
    assert float((act - torch.diag(act.diag())).abs().max()) == 0.0
    before = [value.clone() for value in case.whole]
    assert all(torch.equal(a, b) for a, b in zip(before, case.whole, strict=True))
    assert not case.whole[0].requires_grad
    assert not case.model.first._forward_pre_hooks


def test_between_layers_of_a_transformer_in_eval_mode(awkward: Any) -> None:
    """The fast path of evaluation mode would skip the submodules' hooks."""
    case = awkward("transformer")
    J = LayerJacobian(case.specimen, "layer.linear1", "layer.linear2")
    layer = case.model.layer
    with torch.no_grad():
        x = case.whole[0][:1]
        hidden = layer.norm1(x + layer.self_attn(x, x, x)[0])[0, 0]
    chain = lambda h: layer.linear2(torch.relu(layer.linear1(h)))
    exact = torch.autograd.functional.jacobian(chain, hidden)
    assert isinstance(exact, Tensor)
    assert error(J.to_dense()[:4, :4], exact) < 1e-12


def test_from_the_embedding_of_a_language_model() -> None:
    case = next(one for one in zoo(hugging_face=False) if one.name == "language_model")
    specimen = case.specimen()
    with pytest.raises(SettingError, match="continuous; got"):
        InputJacobian(specimen)
    with pytest.raises(SettingError, match="'embedding', whose is not"):
        LayerJacobian(specimen, "embedding", "head")
    J = LayerJacobian(specimen, "gru", "head", rows=2)
    assert J.shape == (7 * 11, 7 * 8)
    dense = J.to_dense()
    assert error(J.T.to_dense().T, dense.double()) < 1e-5
    causal = dense.reshape(7, 11, 7, 8).abs().amax((1, 3))
    assert float(causal.triu(1).max()) == 0.0  # no step sees a later one
    assert bool((causal.tril() > 0).any())


def test_mistakes_are_explained(awkward: Any) -> None:
    case = awkward("tanh mlp")
    with pytest.raises(SettingError, match=r"names of modules; got 'middle'.*Choose from 0, 1, 2"):
        LayerJacobian(case.specimen, "middle", "2")
    with pytest.raises(SettingError, match="does not depend on '2'"):
        LayerJacobian(case.specimen, "2", "0")
    for rows in (
        torch.tensor([3, 1]),
        torch.tensor([0, 11]),
        torch.tensor([0.0]),
        torch.zeros(0).long(),
        11,
        -1,
    ):
        with pytest.raises(SettingError, match="increasing indices of train examples, 0 to 10"):
            InputJacobian(case.specimen, rows=rows)

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(5, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    specimen = Specimen(Idle(), Classification(), (torch.ones(2, 5), torch.tensor([0, 1])))
    with pytest.raises(SettingError, match="called by the network; got 'idle'"):
        LayerJacobian(specimen, "used", "idle")


@pytest.mark.parametrize("source", ["first", "last"])
def test_an_input_that_is_overwritten_is_refused(source: str) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            x += 1
            k = self.last(h)
            h += 1
            return k

    specimen = Specimen(InPlace(), Classification(), (torch.ones(2, 3), torch.tensor([0, 1])))
    with pytest.raises(SettingError, match=f"in place on the input of '{source}'"):
        LayerJacobian(specimen, source, "last")


def test_outputs_that_depend_on_nothing() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return x.detach()[:, :2] * 2

    specimen = Specimen(
        Constant(), Classification(), (torch.ones(3, 4), torch.tensor([0, 1, 0])), batch_size=2
    )
    J = InputJacobian(specimen)
    assert float(J.to_dense().abs().max()) == 0.0
    assert float(J.T.to_dense().abs().max()) == 0.0
    assert J.T.to_dense().shape == (J.shape[1], 6)
    with pytest.raises(SpecimenError, match="must depend on a trainable parameter"):
        ParameterJacobian(specimen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype: torch.dtype, awkward: Any, make_case: Any) -> None:
    case = awkward("tanh mlp")
    exact = (
        dense_jacobian(case.specimen).flatten(0, 1),
        torch.block_diag(*dense_input_jacobian(case.specimen)),
    )
    low = make_case(case.model, (5,), dtype=dtype)
    for J, truth in zip((ParameterJacobian(low.specimen), InputJacobian(low.specimen)), exact, strict=True):
        assert J.dtype == torch.float32
        for made in (J.to_dense(), J.T.to_dense().T):
            assert error(made, truth) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("case", zoo(hugging_face=False), ids=lambda case: case.name)
def test_the_zoo(case: Any) -> None:
    """Both products of both Jacobians agree with each other on every network that can be examined."""
    if case.refused:
        pytest.skip("cannot be examined")
    specimen = case.specimen().prepared()
    coarse = any(p.dtype is torch.bfloat16 for p in specimen.model.parameters())
    maps: list[Any] = [ParameterJacobian(specimen)] if specimen.trainable else []
    inputs = specimen.objective.inputs(next(specimen.batches()))
    if inputs is not None and inputs.is_floating_point():
        maps.append(InputJacobian(specimen))
    for J in maps:
        u, v = numbers(J.shape[0], seed=1, dtype=J.dtype), numbers(J.shape[1], seed=2, dtype=J.dtype)
        pushed, pulled = J @ v, J.T @ u
        slack = float(u.norm() * pushed.norm() + v.norm() * pulled.norm())
        assert abs(float(u @ pushed - pulled @ v)) <= (3e-2 if coarse else 1e-4) * slack


class _Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.first(x))
        outputs = self.last(hidden)
        hidden.mul_(2)
        return outputs


@pytest.mark.parametrize("kind", [InputJacobian, ParameterJacobian])
def test_networks_that_overwrite_what_a_derivative_needs_are_refused_in_words(kind: Any) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    specimen = Specimen(_Overwriting(), Regression(), (x, x[:, :3])).prepared()
    with pytest.raises(SpecimenError, match=r"leave alone what its gradient needs.*h \* 2 instead of h.mul_"):
        kind(specimen).to_dense()
