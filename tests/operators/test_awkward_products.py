"""Curvature products through kernels, precisions and wrappers that resist differentiating twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification
from torchstone.operators import GaussNewton, Hessian, InputJacobian, ParameterJacobian
from torchstone.operators.column_gradients import ColumnGradients
from torchstone.operators.kept_graphs import GraphWeight
from torchstone.testing import dense_gauss_newton, dense_hessian, zoo

KINDS = {Hessian: dense_hessian, GaussNewton: dense_gauss_newton}


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def sequences(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 4, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (7,), generator=generator)


class Multihead(nn.Module):
    """`nn.MultiheadAttention`, with a mask for padding; its fast path skips autograd's kernels in eval mode."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.read, self.need_weights = nn.Linear(6, 3), need_weights

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        mixed, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.need_weights)
        return self.read(mixed.mean(1))


class Causal(nn.Module):
    """`scaled_dot_product_attention` with a causal mask and grouped queries."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.read = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = lambda t: t.unflatten(-1, (-1, 2)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            heads(self.q(x)), heads(self.k(x)), heads(self.v(x)), is_causal=True, enable_gqa=True
        )
        return self.read(mixed.transpose(1, 2).flatten(2)[:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 5, dropout=0.1, batch_first=True, activation="gelu")
        self.stack, self.read = nn.TransformerEncoder(layer, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.stack(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.cells = kind(6, 3, batch_first=True, **options)
        self.read = nn.Linear(6 if options.get("bidirectional") else 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cells(x)[0][:, -1])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "multihead": lambda: Multihead(False),
    "multihead with weights": lambda: Multihead(True),
    "causal grouped queries": Causal,
    "encoder": Encoder,
    "deep lstm": lambda: Recurrent(nn.LSTM, num_layers=2),
    "bidirectional gru": lambda: Recurrent(nn.GRU, bidirectional=True),
    "rnn": lambda: Recurrent(nn.RNN),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_recurrence(kind: Any, name: str) -> None:
    model = drawn(NETWORKS[name]().double()).eval()
    specimen = Specimen(model, Classification(), sequences(), batch_size=4)
    exact = KINDS[kind](specimen)
    A = kind(specimen)
    X = torch.randn(A.shape[0], 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert error(A @ X, exact @ X) < 1e-11
    assert A.how == "double backward"


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize(
    "network",
    [lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)), Causal, Encoder],
)
def test_mixed_precision(kind: Any, network: Callable[[], nn.Module]) -> None:
    """Under autocast products are those of the float32 network to the precision of bfloat16."""

    def mixed(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch[0])

    model = drawn(network()).eval()
    data = sequences(torch.float32)
    plain = kind(Specimen(model, Classification(), data, batch_size=4))
    cast = kind(Specimen(model, Classification(call=mixed), data, batch_size=4))
    X = torch.randn(plain.shape[0], 3, generator=torch.Generator().manual_seed(2))
    difference = error(cast @ X, (plain @ X).double())
    assert 1e-5 < difference < 0.03  # bfloat16 has 8 bits: 0.004 a rounding
    assert cast.how == "double backward"


def test_compiled_networks_are_run_as_they_were_written() -> None:
    """AOT autograd has no second derivative, as PyTorch says at the first derivative or at the second."""
    data = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1, 1])
    inner = drawn(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    compiled: Any = torch.compile(inner, backend="aot_eager")
    parameters = list(inner.parameters())

    def twice() -> None:
        gradient = torch.autograd.grad(compiled(data[0]).sum(), parameters, create_graph=True)
        torch.autograd.grad(gradient[0].sum(), parameters, allow_unused=True)

    with pytest.raises(RuntimeError, match=r"does not currently support double backward|donated buffers"):
        twice()
    plain, wrapped = Specimen(inner, Classification(), data), Specimen(compiled, Classification(), data)
    x = torch.randn(26, generator=torch.Generator().manual_seed(2))
    for kind in (Hessian, GaussNewton):
        A = kind(wrapped)
        assert torch.equal(A @ x, kind(plain) @ x)
        assert A.how == "double backward of the network as it was before torch.compile"
    part = nn.Sequential(nn.Linear(3, 3), compiled)  # only a part is compiled
    whole = nn.Sequential(part[0], inner)
    hessians = [Hessian(Specimen(one, Classification(), data)) for one in (part, whole)]
    x = torch.randn(hessians[0].shape[0], generator=torch.Generator().manual_seed(2))
    assert torch.equal(hessians[0] @ x, hessians[1] @ x)
    in_place = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    in_place.load_state_dict(inner.state_dict())
    in_place.compile(backend="aot_eager")
    H = Hessian(Specimen(in_place, Classification(), data))
    assert torch.equal(H @ torch.ones(26), Hessian(plain) @ torch.ones(26))
    assert "before torch.compile" in H.how
    assert error(ParameterJacobian(wrapped).to_dense(), ParameterJacobian(plain).to_dense().double()) == 0.0


def test_columns_at_once_are_the_single_ones(awkward: Any) -> None:
    """vmap and the loop give the same products up to rounding, of every kind of map."""
    for name in ("tanh mlp", "batch norm cnn", "tied", "lstm", "transformer", "unused and frozen"):
        specimen = awkward(name).specimen
        for kind in (Hessian, GaussNewton, ParameterJacobian, InputJacobian):
            A = kind(specimen)
            X = torch.randn(A.shape[1], 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            together = A @ X
            assert A._columns.chunk(A._graphs.weight) >= 5
            assert A._columns.refused == ""
            apart = torch.stack([A @ x for x in X.T], dim=1)
            assert error(together, apart) < 1e-13


def test_passes_are_counted_the_same(awkward: Any) -> None:
    case = awkward("tanh mlp")
    H = Hessian(case.specimen)
    X = torch.ones(H.shape[0], 6, dtype=torch.float64)
    H.matmat(X)
    counts = []
    for product in (lambda: H @ X, lambda: [H @ x for x in X.T]):
        before = case.specimen.passes.backward
        product()
        counts.append(case.specimen.passes.backward - before)
    assert counts == [6 * 11, 6 * 11]


def test_columns_are_cut_to_the_memory_budget(awkward: Any) -> None:
    specimen = awkward("tanh mlp").specimen
    columns = ColumnGradients(specimen, memory_bytes=1000)
    assert columns.chunk(GraphWeight(bytes=150, saves=10, parameters=100)) == 4
    assert columns.chunk(GraphWeight(bytes=5000, saves=10, parameters=100)) == 1
    assert columns.chunk(None) == 1
    large = ColumnGradients(specimen, memory_bytes=2**40)
    assert large.chunk(GraphWeight(bytes=2**20, saves=10, parameters=100)) == 1  # a CPU is faster one by one
    exact = Hessian(specimen)
    X = torch.randn(exact.shape[1], 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cut = Hessian(specimen)
    cut.matmat(X[:, :1])
    assert cut._graphs.weight is not None
    cut._columns.memory_bytes = 3 * (cut._graphs.weight.bytes + cut._graphs.weight.parameters)
    assert cut._columns.chunk(cut._graphs.weight) == 3
    assert error(cut @ X, exact @ X) < 1e-13


class _NoVmap(torch.autograd.Function):
    """tanh that can be differentiated twice, but not by vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return _Scale.apply(gradient, 1 - x.tanh() ** 2)


class _Scale(torch.autograd.Function):
    """A product whose derivative looks at values, which vmap refuses."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, factor)
        return gradient * factor

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, factor = ctx.saved_tensors
        if float(above.abs().sum()) < 0:
            raise AssertionError
        return above * factor, above * gradient


def test_a_refusal_of_vmap_is_remembered(awkward: Any, make_case: Any) -> None:
    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return _NoVmap.apply(x)

    plain = awkward("tanh mlp")
    case = make_case(nn.Sequential(plain.model[0], Custom(), plain.model[2]), (5,))
    H, exact = Hessian(case.specimen), Hessian(plain.specimen)
    X = torch.randn(exact.shape[1], 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert error(H @ X, exact @ X) < 1e-13
    assert "Batching rule not implemented" in H._columns.refused
    assert H._columns.chunk(H._graphs.weight) == 1
    assert H.how == "double backward, through _NoVmap too, which agreed with differences to 2%"


def test_a_budget_for_less_than_one_graph_still_gives_products(awkward: Any) -> None:
    """One batch's graph is built at a time; smaller batches need less."""
    for name in ("tanh mlp", "transformer"):
        specimen = awkward(name).specimen
        for kind in (Hessian, GaussNewton, ParameterJacobian):
            A, B = kind(specimen, memory_bytes=0), kind(specimen)
            x = torch.ones(A.shape[1], 2, dtype=torch.float64)
            assert error(A @ x, B @ x) < 1e-13
            assert A._graphs.fits is False
            assert not A._graphs._kept


@pytest.mark.parametrize("case", zoo(hugging_face=False), ids=lambda case: case.name)
@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_the_zoo(kind: Any, case: Any) -> None:
    """On every network that can be examined the matrix is symmetric, and its products are those of the dense one."""
    specimen = None if case.refused else case.specimen().prepared()
    if specimen is None or not specimen.trainable:
        pytest.skip("nothing to differentiate")
    coarse = any(p.dtype is torch.bfloat16 for p in specimen.model.parameters())
    A = kind(specimen)
    X = torch.randn(A.shape[0], 2, generator=torch.Generator().manual_seed(2), dtype=A.dtype)
    Y = A @ X
    u, v = X.T
    slack = 0.05 if coarse else 1e-4 if A.how.startswith("double backward") else 2e-2
    assert abs(float(u @ Y[:, 1] - v @ Y[:, 0])) <= slack * float(X.norm() * Y.norm())
    wide = case.specimen()
    wide = Specimen(
        wide.model.double(),
        wide.objective,
        case.specimen().splits["train"].source,
        mode=wide.mode,
        freeze_noise=wide.freeze_noise,
    )
    exact = kind(wide.prepared()) @ X.double()
    assert float((Y - exact).norm()) <= slack * float(exact.norm()) + 1e-12
