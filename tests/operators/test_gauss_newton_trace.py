"""Per-example traces of the Gauss-Newton matrix against one example at a time, for every way a parameter can enter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.operators import gauss_newton_trace, gradient_gram, gradient_norms
from torchstone.operators.loss_curvature import loss_curvature
from torchstone.testing import per_example_gradients


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def randomised(model: nn.Module) -> nn.Module:
    model.double().eval()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(0.5 * randn(*parameter.shape, seed=position))
    for position, (name, buffer) in enumerate(model.named_buffers()):
        if "running" in name:
            buffer.copy_(0.5 + randn(*buffer.shape, seed=50 + position).abs())
    return model


def one_at_a_time(specimen: Specimen, data: Any, examples: int) -> dict[str, Tensor]:
    """tr(J_n^T H_n J_n) by parameter and example, from every output's gradient."""
    objective, parameters = specimen.objective, specimen.trainable
    found: dict[str, list[float]] = {name: [] for name in parameters}
    for n in range(examples):
        batch = objective.take(data, torch.tensor([n]))
        outputs = objective.outputs(specimen.model, batch)
        loss = lambda f, batch=batch, shape=outputs.shape: objective.losses(f.reshape(shape), batch).sum()
        hessian: Any = torch.autograd.functional.hessian(loss, outputs.detach().reshape(-1))
        for name, parameter in parameters.items():
            rows = [
                torch.autograd.grad(one, parameter, retain_graph=True, materialize_grads=True)[0].reshape(-1)
                for one in outputs.reshape(-1)
            ]
            jacobian = torch.stack(rows)
            found[name].append(float(torch.trace(jacobian.T @ hessian @ jacobian)))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def check(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    task: str = "classification",
    examples: int = 6,
    batch_size: int = 4,
    inputs: Tensor | None = None,
    formed: tuple[str, ...] = (),
    **options: Any,
) -> Specimen:
    model = randomised(model)
    x = randn(examples, *shape, seed=77) if inputs is None else inputs
    with torch.no_grad():
        made = model(x)
    if task == "classification":
        data: Any = (x, torch.randint(made.shape[1], (examples, *made.shape[2:]), generator=generator(1)))
        objective: Objective = Classification()
    else:
        data, objective = (x, randn(*made.shape, seed=78)), Regression()
    specimen = Specimen(model, objective, data, batch_size=batch_size)
    result = gauss_newton_trace(specimen, generator=generator(2), **options)
    assert result.missing == {}
    assert result.formed == set(formed)
    expected = one_at_a_time(specimen, data, examples)
    assert set(expected) == set(result.by_example)
    for name, values in expected.items():
        torch.testing.assert_close(result.by_example[name], values, rtol=1e-10, atol=1e-12, msg=name)
    assert sum(float(values.sum()) for values in expected.values()) > 0
    check_gradients(specimen, formed, **options)
    return specimen


def check_gradients(specimen: Specimen, formed: tuple[str, ...], **options: Any) -> None:
    """The same rules give norms and inner products of the losses' gradients."""
    rows = per_example_gradients(specimen)
    gram = gradient_gram(specimen, **options)
    torch.testing.assert_close(gram.matrix, rows @ rows.T, rtol=1e-10, atol=1e-12)
    assert gram.formed == formed
    norms = gradient_norms(specimen, **options)
    assert norms.formed == formed
    start = 0
    for name, parameter in specimen.trainable.items():
        part = rows[:, start : start + parameter.numel()]
        torch.testing.assert_close(norms.per_parameter[name], part.square().sum(1), rtol=1e-10, atol=1e-12)
        start += parameter.numel()


class Function(nn.Module):
    """A network as parameters and a function of them and the input."""

    def __init__(
        self, function: Callable[..., Tensor], *modules: nn.Module, **shapes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


FEED_FORWARD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,)),
    "dense layer on sequences": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2, bias=False), *head(6)),
        (3, 4),
    ),
    "as many positions as examples": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), *head(20)),
        (4, 3),
    ),
    "few positions, wide layers": (
        lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), *head(40)),
        (2, 30),
    ),
    "many positions, narrow layers": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), *head(80)), (40, 2)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), *head(18)
        ),
        (2, 5, 5),
    ),
    "stride, dilation, padding, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, groups=6, bias=False, padding="same"),
            *head(144),
        ),
        (4, 5, 6),
    ),
    "even kernel, same padding": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 4, padding="same"), *head(18)),
        (2, 6),
    ),
    "circular padding": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), *head(18)),
        (2, 6),
    ),
    "convolution in three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0)), *head(36)),
        (2, 3, 4, 3),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), *head(27), nn.BatchNorm1d(3)),
        (1, 4, 4),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.LayerNorm([3, 6]), *head(18)),
        (3, 4),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), *head(36)), (1, 4, 4)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), *head(18)), (3, 4)),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3), nn.PReLU()), (4,)),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), (4,)),
    "position embedding": (
        lambda: Function(lambda m, x: m.inner[0](x + m.position), nn.Sequential(*head(12)), position=(3, 4)),
        (3, 4),
    ),
    "class token": (
        lambda: Function(
            lambda m, x: m.inner[0](torch.cat([m.token.expand(len(x), 1, 4), x], 1)),
            nn.Sequential(nn.Linear(4, 2), *head(8)),
            token=(1, 1, 4),
        ),
        (3, 4),
    ),
    "scales, shifts and a scalar": (
        lambda: Function(
            lambda m, x: m.inner[0]((m.scale * x - m.shift).tanh() * m.temperature),
            nn.Linear(4, 3),
            scale=(4,),
            shift=(1, 4),
            temperature=(),
        ),
        (4,),
    ),
    "matrix from the left": (lambda: Function(lambda m, x: (m.w @ x.T).T, w=(3, 4)), (4,)),
    "batched matrix from the left": (
        lambda: Function(lambda m, x: m.inner[0](torch.matmul(m.w, x)), nn.Sequential(*head(8)), w=(2, 3)),
        (3, 4),
    ),
    "einsum": (
        lambda: Function(
            lambda m, x: m.inner[0](torch.einsum("ntd,dk->ntk", x, m.w)), nn.Sequential(*head(6)), w=(4, 2)
        ),
        (3, 4),
    ),
    "matrix times vector": (
        lambda: Function(lambda m, x: torch.stack([x @ m.v, -(x @ m.v), x[:, 0]], 1), v=(4,)),
        (4,),
    ),
    "one matrix for each of several heads": (
        lambda: Function(
            lambda m, x: m.inner[0](torch.bmm(x.transpose(0, 1), m.w).transpose(0, 1)),
            nn.Sequential(*head(6)),
            w=(3, 4, 2),
        ),
        (3, 4),
    ),
    "a layer called three times": (
        lambda: Function(
            lambda m, x: m.inner[1](
                torch.tanh(m.inner[0](torch.tanh(m.inner[0](torch.tanh(m.inner[0](x))))))
            ),
            nn.Linear(4, 4),
            nn.Linear(4, 3),
        ),
        (4,),
    ),
    "a convolution called twice": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](m.inner[0](x).tanh())),
            nn.Conv2d(2, 2, 3, padding=1),
            nn.Sequential(*head(32)),
        ),
        (2, 4, 4),
    ),
    "a square weight and its transpose": (
        lambda: Function(lambda m, x: m.inner[0](torch.tanh(x @ m.w) @ m.w.T), nn.Linear(4, 3), w=(4, 4)),
        (4,),
    ),
    "a bias that is also a scale": (
        lambda: Function(lambda m, x: m.inner[0](x * m.b + m.b), nn.Linear(4, 3), b=(4,)),
        (4,),
    ),
    "rearranged weights": (
        lambda: Function(
            lambda m, x: m.inner[0](
                (x @ m.w.permute(2, 0, 1).reshape(4, 6)).tanh() + x @ m.w.transpose(-1, 0).reshape(4, 6)
            ),
            nn.Linear(6, 3),
            w=(2, 3, 4),
        ),
        (4,),
    ),
    "recurrent, time first": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1))[0][-1]), nn.LSTM(3, 4), nn.Linear(4, 3)
        ),
        (5, 3),
    ),
    "as many steps as examples": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1))[0].sum(0)), nn.RNN(3, 4), nn.Linear(4, 3)
        ),
        (4, 3),
    ),
    "dense layer, time first": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).tanh().mean(0)),
            nn.Linear(3, 4),
            nn.Linear(4, 3),
        ),
        (4, 3),
    ),
    "transformer, time first": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).mean(0)),
            nn.TransformerEncoderLayer(4, 2, 6),
            nn.Linear(4, 3),
        ),
        (4, 4),
    ),
    "frames folded into the batch": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)),
            nn.Conv2d(1, 2, 2),
            nn.Sequential(*head(8)),
        ),
        (3, 1, 3, 3),
    ),
    "windows, examples innermost": (
        lambda: Function(
            lambda m, x: m.inner[1](
                m.inner[0](x.transpose(0, 1).flatten(0, 1)).tanh().unflatten(0, (3, -1)).mean(0)
            ),
            nn.Linear(4, 5),
            nn.Linear(5, 3),
        ),
        (3, 4),
    ),
    "an unused parameter": (lambda: Function(lambda m, x: m.inner[0](x), nn.Linear(4, 3), idle=(2,)), (4,)),
    "cross attention": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x, x.flip(1), x.flip(1), need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 3),
        ),
        (3, 4),
    ),
    "positions from a parameter that is longer": (
        lambda: Function(
            lambda m, x: m.inner[0]((x + m.p[:, 1:4]).tanh() * m.p[0, -1, 2]),
            nn.Sequential(*head(12)),
            p=(1, 5, 4),
        ),
        (3, 4),
    ),
    "positions from a table": (
        lambda: Function(
            lambda m, x: m.inner[1]((x + m.inner[0](torch.arange(3)[None])).tanh()),
            nn.Embedding(5, 4),
            nn.Sequential(*head(12)),
        ),
        (3, 4),
    ),
    "as many positions from a table as examples, some twice": (
        lambda: Function(
            lambda m, x: m.inner[1]((x + m.inner[0](torch.tensor([0, 1, 1, 2]))).tanh()),
            nn.Embedding(5, 4, padding_idx=2),
            nn.Sequential(*head(16)),
        ),
        (4, 4),
    ),
    "rows of a table as weights": (
        lambda: Function(
            lambda m, x: (
                F.linear(x, m.inner[0](torch.tensor([2, 0, 2]))) + F.linear(x, m.inner[0].weight[1:4])
            ),
            nn.Embedding(5, 4),
        ),
        (4,),
    ),
    "a pruned layer": (
        lambda: Function(
            lambda m, x: F.linear(x, m.w * torch.eye(3, 4, dtype=x.dtype), m.b), w=(3, 4), b=(3,)
        ),
        (4,),
    ),
}
FORMED = {"a pruned layer": ("w",)}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", FEED_FORWARD)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str) -> None:
    make, shape = FEED_FORWARD[name]
    check(make(), shape, task=task, formed=FORMED.get(name, ()))


FALLBACK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3), *head(18)),
        (2, 4),
        ("0.weight",),
    ),
    "bilinear": (
        lambda: Function(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3)),
        (4,),
        ("inner.0.weight",),
    ),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        (4,),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
    "low-rank adapter": (
        lambda: Function(lambda m, x: F.linear(x, m.a @ m.b), a=(3, 2), b=(2, 4)),
        (4,),
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("name", FALLBACK)
def test_other_uses_have_their_gradients_formed(name: str) -> None:
    make, shape, formed = FALLBACK[name]
    check(make(), shape, formed=formed)


@pytest.mark.parametrize(
    "network", [lambda m, _x: m.w, lambda m, _x: m.w.T.T, lambda m, x: m.w[: len(x)] + 0 * x]
)
def test_a_table_with_a_row_an_example_is_not_taken_for_unused(network: Callable[..., Tensor]) -> None:
    model = randomised(Function(network, w=(4, 3)))
    data = (randn(4, 3), torch.randint(3, (4,), generator=generator(1)))
    result = gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    assert set(result.missing) == {"w"}


def tokens() -> Tensor:
    return torch.randint(7, (6, 4), generator=generator(5))


def test_embeddings_with_repeated_and_padding_tokens() -> None:
    model = nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Tanh(), *head(12))
    check(model, (), inputs=tokens())


def test_embedding_tied_to_the_outputs() -> None:
    model = Function(
        lambda m, x: F.linear(m.inner[0](x).tanh().mean(1), m.inner[0].weight), nn.Embedding(7, 3)
    )
    check(model, (), inputs=tokens())


def test_embedding_time_first() -> None:
    model = Function(
        lambda m, x: m.inner[1](m.inner[0](x.T).tanh().mean(0)), nn.Embedding(7, 3), nn.Linear(3, 3)
    )
    check(model, (), inputs=tokens())


@pytest.mark.parametrize("memory_bytes", [1, 4000, 20_000])
def test_small_memory_cuts_batches_and_changes_nothing(memory_bytes: int) -> None:
    make, shape = FEED_FORWARD["convolution"]
    check(make(), shape, memory_bytes=memory_bytes)
    make, shape, formed = FALLBACK["bilinear"]
    check(make(), shape, formed=formed, memory_bytes=memory_bytes)


def test_frozen_noise_is_the_same_however_little_memory_there_is() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Linear(20, 3))).train()
    data = (randn(8, 4), torch.randint(3, (8,), generator=generator(1)))
    specimen = Specimen(model, Classification(), data, mode="as_is", freeze_noise=True)
    large, small = (
        gauss_newton_trace(specimen, memory_bytes=memory_bytes, generator=generator(2))
        for memory_bytes in (2**28, 1)
    )
    for name, values in large.by_example.items():
        torch.testing.assert_close(small.by_example[name], values, rtol=1e-12, atol=0)


def test_segmentation_and_label_smoothing() -> None:
    model = randomised(nn.Conv2d(2, 3, 3, padding=1))
    x, y = randn(5, 2, 3, 4), torch.randint(3, (5, 3, 4), generator=generator(1))
    y[0, 0, 0] = -100
    specimen = Specimen(model, Classification(label_smoothing=0.1), (x, y), batch_size=3)
    result = gauss_newton_trace(specimen, generator=generator(2))
    expected = one_at_a_time(specimen, (x, y), 5)
    for name, values in expected.items():
        torch.testing.assert_close(result.by_example[name], values, rtol=1e-10, atol=1e-12)


class Concave(Objective):
    """Loss that is concave in the first output and convex in the others, with mixed terms."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return outputs.exp().sum(1) - 3 * outputs[:, 0].exp() + outputs[:, 0] * outputs[:, 1]


def test_losses_that_are_not_convex() -> None:
    specimen = Specimen(randomised(nn.Linear(4, 3)), Concave(), randn(6, 4), batch_size=4)
    result = gauss_newton_trace(specimen, generator=generator(2))
    expected = one_at_a_time(specimen, randn(6, 4), 6)
    torch.testing.assert_close(result.by_example["weight"], expected["weight"], rtol=1e-10, atol=1e-12)
    assert bool((expected["weight"] < 0).any())


def test_the_mean_is_over_examples_whatever_the_batches() -> None:
    make, shape = FEED_FORWARD["mlp"]
    check(make(), shape, batch_size=1)
    check(make(), shape, batch_size=100)


# -- sampled outputs ---------------------------------------------------------------------------------------------------


def language_model() -> tuple[Specimen, Tensor]:
    model = randomised(nn.Sequential(nn.Embedding(11, 4), nn.Tanh(), nn.Linear(4, 11)))
    data = torch.randint(11, (5, 6), generator=generator(3))
    return Specimen(model, CausalLM(), data, batch_size=3), data


def test_language_models_are_exact_where_affordable_and_sampled_where_not() -> None:
    specimen, data = language_model()
    expected = one_at_a_time(specimen, data, 5)
    exact = gauss_newton_trace(specimen, max_columns=100, generator=generator(2))
    assert exact.columns == 66
    assert exact.by_sample == {}
    copies = Specimen(specimen.model, CausalLM(), data.repeat(20, 1), batch_size=60)  # 20 draws in one
    sampled = gauss_newton_trace(copies, max_columns=65, samples=100, generator=generator(2))
    assert sampled.columns == 100
    for name, values in expected.items():
        torch.testing.assert_close(exact.by_example[name], values, rtol=1e-9, atol=1e-12)
        error = sampled.variance(name) ** 0.5
        assert 0 < error < 0.05 * float(values.mean())
        assert abs(sampled.value(name) - float(values.mean())) < 4 * error


@pytest.mark.parametrize("kind", ["classes", "positions", "diagonal"])
def test_large_loss_hessians_add_up_from_their_columns(kind: str) -> None:
    """sum_k sign s s^T is the loss Hessian, and the mean of s s^T over samples too."""
    shape = {"classes": (3, 50), "positions": (3, 4, 5, 3), "diagonal": (3, 7, 9)}[kind]
    outputs = 2 * randn(*shape)
    labels: Any = torch.randint(4, (3, *shape[2:]), generator=generator(1))
    if kind == "positions":
        labels[0, 0, 0] = -100
    batch = (outputs, randn(*shape, seed=5) if kind == "diagonal" else labels)
    objective: Objective = Regression() if kind == "diagonal" else Classification()
    specimen = Specimen(nn.Identity(), objective, batch)
    found = loss_curvature(specimen, outputs, batch)
    assert not isinstance(found, str)
    assert found.kind == ("diagonal" if kind == "diagonal" else "softmax")
    total = torch.zeros(3, outputs[0].numel(), outputs[0].numel(), dtype=torch.float64)
    for k in range(found.count):
        column, signs = found.column(k)
        rows = column.flatten(1)
        total += signs[:, None, None] * rows[:, :, None] * rows[:, None, :]
    for n in range(3):
        one = objective.take(batch, torch.tensor([n]))
        loss = lambda f, one=one: objective.losses(f.reshape(1, *shape[1:]), one).sum()
        expected: Any = torch.autograd.functional.hessian(loss, outputs[n].reshape(-1))
        torch.testing.assert_close(total[n], expected, rtol=1e-9, atol=1e-12)
    copies = dataclasses.replace(  # of every example, so that one call draws a thousand times
        found,
        vectors=found.vectors.repeat_interleave(1000, 0),
        signs=found.signs.repeat_interleave(1000, 0),
        shape=(3000, *shape[1:]),
    )
    draws, seed = torch.zeros_like(total), generator(6)
    for _ in range(20):
        rows = copies.sample(seed)[0].reshape(3, 1000, -1)
        draws += rows.mT @ rows / 20_000
    assert float((draws - total).norm() / total.norm()) < 0.15
    trace = lambda matrices: matrices.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace(draws), trace(total), rtol=0.02, atol=0.0)


def test_saturated_softmax_keeps_its_weights() -> None:
    outputs = 200 * randn(3, 60)
    specimen = Specimen(nn.Identity(), Classification(), (outputs, torch.tensor([0, 1, 2])))
    found = loss_curvature(specimen, outputs, (outputs, torch.tensor([0, 1, 2])))
    assert not isinstance(found, str)
    total = sum(float(found.column(k)[0].square().sum()) for k in range(found.count))
    p = outputs.softmax(1)
    assert total == pytest.approx(float((p * (1 - p)).sum()), rel=1e-9)


# -- where there is no answer ------------------------------------------------------------------------------------------


def reason(specimen: Specimen, **options: Any) -> str:
    result = gauss_newton_trace(specimen, generator=generator(2), **options)
    assert set(result.missing) == set(specimen.trainable)
    assert result.by_example == {}
    return next(iter(result.missing.values()))


def test_losses_that_depend_on_each_other_are_refused() -> None:
    class Contrast(Concave):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")

    specimen = Specimen(randomised(nn.Linear(4, 3)), Contrast(), randn(6, 4))
    assert reason(specimen) == "the losses of a batch depend on each other"


def test_coupled_examples_are_refused() -> None:
    specimen = Specimen(
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().train(),
        Classification(),
        (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        mode="as_is",
    )
    assert reason(specimen.prepared()) == "an example's output depends on the rest of its batch"


def test_examples_that_mix_unannounced_are_noticed_by_their_signals() -> None:
    """The same network, without the preparation that finds out."""
    model = Function(
        lambda m, x: m.inner[0](x - x.mean(0)), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    )
    specimen = Specimen(
        model.double().train(),
        Classification(),
        (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])),
        mode="as_is",
    )
    result = gauss_newton_trace(specimen, generator=generator(2))
    assert set(result.missing) == set(specimen.trainable)


def test_unknown_large_loss_hessians_are_refused() -> None:
    class Mixed(Concave):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.logsumexp(1) ** 2 + outputs.square().sum(1)

    specimen = Specimen(randomised(nn.Linear(4, 60)), Mixed(), randn(6, 4))
    assert reason(specimen) == "the loss Hessian of 60 outputs has no structure that is known"


def test_custom_loss_functions_are_refused() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * ctx.saved_tensors[0] * gradient

    class Custom(Concave):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            made: Any = Square.apply(outputs)
            return made.sum(1)

    assert reason(Specimen(randomised(nn.Linear(4, 3)), Custom(), randn(6, 4))) == (
        "the loss is a custom autograd function"
    )


def test_parameters_without_rule_or_vmap_are_missing_alone() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.bend = nn.Linear(4, 3), nn.Bilinear(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            return self.bend(h, h) if bool((h > -1e9).all()) else h

    model = randomised(Branching())
    data = (randn(6, 4), torch.randint(3, (6,), generator=generator(1)))
    specimen = Specimen(model, Classification(), data, batch_size=4)
    result = gauss_newton_trace(specimen, generator=generator(2))
    assert result.missing == {
        "bend.weight": "its use has no rule and the network does not run under torch.func.vmap"
    }
    expected = one_at_a_time(specimen, data, 6)
    for name in ("inner.weight", "inner.bias", "bend.bias"):
        torch.testing.assert_close(result.by_example[name], expected[name], rtol=1e-10, atol=1e-12)


def test_parameters_that_functional_calls_do_not_reach_are_missing() -> None:
    """A reference kept outside the modules is not replaced by torch.func: its gradients there would be zero."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bend = nn.Bilinear(4, 4, 3)
            self.kept = [self.bend.weight]

        def forward(self, x: Tensor) -> Tensor:
            return F.bilinear(x, x, self.kept[0], self.bend.bias)

    data = (randn(6, 4), torch.randint(3, (6,), generator=generator(1)))
    result = gauss_newton_trace(
        Specimen(randomised(Hidden()), Classification(), data), generator=generator(2)
    )
    assert set(result.missing) == {"bend.weight"}


def test_float32_and_bfloat16_are_close() -> None:
    make, shape = FEED_FORWARD["batch norm"]
    model = randomised(make())
    data = (randn(6, *shape, seed=77), torch.randint(3, (6,), generator=generator(1)))
    exact = gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        low = gauss_newton_trace(Specimen(model.to(dtype), Classification(), data), generator=generator(2))
        for name in exact.by_example:
            assert low.value(name) == pytest.approx(exact.value(name), rel=tolerance)


def test_no_hook_remains_and_nothing_changes() -> None:
    make, shape = FEED_FORWARD["batch norm"]
    model = randomised(make())
    data = (randn(6, *shape), torch.randint(3, (6,), generator=generator(1)))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.random.get_rng_state()
    gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())
    assert torch.equal(rng, torch.random.get_rng_state())
