"""Networks that are awkward to differentiate twice, and dense matrices of them by plain autodiff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Regression

N = 11


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    """Float64 weights from an explicit generator; BatchNorm gets statistics and weights that are not the defaults."""
    model.double().eval()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


class Written(nn.Module):
    """A network written as modules, shapes of parameters and a function of them and the input."""

    def __init__(
        self, function: Callable[..., Tensor], *modules: nn.Module, **shapes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Tied(nn.Module):
    """The same weight going in and, transposed, coming out, and once more in between."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.square = nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.square(torch.tanh(self.into(x))))
        return torch.tanh(self.square(h)) @ self.into.weight


class Unused(nn.Module):
    """A parameter that no output depends on, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(3))
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.first(x)))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cells, self.read = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.read = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.read(mixed.transpose(1, 2).flatten(2).mean(1))


def encoder() -> nn.Module:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
            self.read = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.layer(x).mean(1))

    return Encoder()


def batch_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


AWKWARD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "tanh mlp": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), (5,), "classification"),
    "relu regression": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)),
        (5,),
        "regression",
    ),
    "batch norm cnn": (batch_norm_cnn, (1, 7, 7), "classification"),
    "tied": (Tied, (5,), "regression"),
    "unused and frozen": (Unused, (5,), "classification"),
    "lstm": (lambda: Recurrent(nn.LSTM), (4, 3), "classification"),
    "gru": (lambda: Recurrent(nn.GRU), (4, 3), "classification"),
    "attention": (Attention, (4, 4), "classification"),
    "transformer": (encoder, (4, 4), "classification"),
    "linear": (lambda: nn.Linear(5, 3, bias=False), (5,), "classification"),
}


@dataclass
class Case:
    """A specimen with batches of 4, 4 and 3 examples, and the same data in one piece."""

    specimen: Specimen
    model: nn.Module
    whole: tuple[Tensor, Tensor]


@pytest.fixture(scope="session")
def randomised() -> Callable[..., nn.Module]:
    return randomise


@pytest.fixture(scope="session")
def written() -> Callable[..., nn.Module]:
    return Written


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    def make(
        model: nn.Module,
        shape: tuple[int, ...],
        task: str = "classification",
        *,
        examples: int = N,
        batch_size: int = 4,
        dtype: torch.dtype = torch.float64,
        outputs: int | None = None,
        mode: Any = "eval",
    ) -> Case:
        x = torch.randn(examples, *shape, generator=seeded(1), dtype=torch.float64).to(dtype)
        model = model.to(dtype)
        model.eval()
        with torch.no_grad():
            made = model(x)
        if task == "classification":
            y = torch.randint(made.shape[1], (examples,), generator=seeded(2))
            objective: Any = Classification()
        else:
            y = torch.randn(made.shape, generator=seeded(2), dtype=torch.float64).to(dtype)
            objective = Regression()
        specimen = Specimen(model, objective, (x, y), batch_size=batch_size, mode=mode)
        return Case(specimen, model, (x, y))

    return make


@pytest.fixture(scope="session")
def awkward(make_case: Callable[..., Case]) -> Callable[[str], Case]:
    def build(name: str) -> Case:
        make, shape, task = AWKWARD[name]
        return make_case(randomise(make()), shape, task)

    return build


@pytest.fixture(scope="session")
def dense_hessian() -> Callable[[Case], Tensor]:
    """Second derivatives of the mean loss over the data in one piece, row by row."""

    def compute(case: Case) -> Tensor:
        specimen = case.specimen
        parameters = list(specimen.trainable.values())
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = specimen.losses(specimen.objective.outputs(case.model, case.whole), case.whole).mean()
            gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))
        rows = [
            _flat(torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True))
            if entry.requires_grad
            else torch.zeros_like(gradient)
            for entry in gradient
        ]
        return torch.stack(rows).detach()

    return compute


@pytest.fixture(scope="session")
def dense_gauss_newton() -> Callable[[Case], Tensor]:
    """sum_n J_n^T H_n J_n / N from the Jacobian of every output of every example."""

    def compute(case: Case) -> Tensor:
        specimen = case.specimen
        parameters = list(specimen.trainable.values())
        outputs = specimen.objective.outputs(case.model, case.whole)
        flat = outputs.reshape(-1)
        rows = [
            _flat(torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True))
            for one in flat
        ]
        jacobian = torch.stack(rows)
        loss = lambda f: specimen.losses(f.reshape(outputs.shape), case.whole).mean()
        curvature = torch.autograd.functional.hessian(loss, flat.detach())
        assert isinstance(curvature, Tensor)
        return jacobian.T @ curvature @ jacobian

    return compute


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
