"""The tangent kernel against the Jacobian of every output of every example, for every way a parameter can enter."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone import Specimen
from torchstone.errors import MemoryBudgetError, SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import ntk, ntk_plan
from torchstone.testing.networks import LanguageModel


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


def jacobian(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By parameter the Jacobian (N, C, P), one example and one output at a time."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for n in range(len(x)):
        for output in model(x[n : n + 1]).reshape(-1):
            rows = torch.autograd.grad(
                output, tuple(parameters.values()), retain_graph=True, materialize_grads=True
            )
            for name, row in zip(parameters, rows, strict=True):
                found[name].append(row.reshape(-1))
    return {name: torch.stack(rows).unflatten(0, (len(x), -1)) for name, rows in found.items()}


def contracted(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.einsum("ncp,mdp->nmcd", left[name], right[name]) for name in left}


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


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    next(model.children()).requires_grad_(False)
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,), ()),
    "linear": (lambda: nn.Linear(4, 3), (4,), ()),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), (4,), ()),
    "frozen": (frozen, (4,), ()),
    "few positions, wide layers": (
        lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), *head(40)), (2, 30), (),
    ),
    "many positions, narrow layers": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), *head(80)), (40, 2), ()),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), *head(18)),
        (2, 5, 5), (),
    ),
    "few pixels, many channels": (
        lambda: nn.Sequential(nn.Conv2d(2, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 20, 2), *head(20)),
        (2, 2, 2), (),
    ),
    "stride, dilation, padding, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, groups=6, bias=False, padding="same"),
            *head(144),
        ),
        (4, 5, 6), (),
    ),
    "groups with few pixels": (
        lambda: nn.Sequential(nn.Conv2d(8, 40, 2, groups=2), nn.Tanh(), *head(40)), (8, 2, 2), (),
    ),
    "pointwise on one pixel, grouped": (lambda: nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), *head(6)), (4, 1, 1), ()),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), *head(27), nn.BatchNorm1d(3)),
        (1, 4, 4), (),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.LayerNorm([3, 6]), *head(18)), (3, 4), (),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), *head(36)), (1, 4, 4), ()),
    "attention": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x, x, x, need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3),
        ),
        (3, 4), (),
    ),
    "cross attention": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x, x.flip(1), x.flip(1), need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3),
        ),
        (3, 4), (),
    ),
    "transformer, time first": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).mean(0)),
            nn.TransformerEncoderLayer(4, 2, 6), nn.Linear(4, 3),
        ),
        (4, 4), (),
    ),
    "lstm": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](x)[0][:, -1]), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)
        ),
        (5, 3), (),
    ),
    "a layer called three times": (
        lambda: Function(
            lambda m, x: m.inner[1](m.inner[0](m.inner[0](m.inner[0](x).tanh()).tanh())),
            nn.Linear(4, 4), nn.Linear(4, 3),
        ),
        (4,), (),
    ),
    "a weight and its transpose": (
        lambda: Function(lambda m, x: torch.tanh(x @ m.w.T) @ m.w, w=(6, 4)), (4,), (),
    ),
    "a bias that is also a scale": (
        lambda: Function(lambda m, x: m.inner[0](x * m.b + m.b), nn.Linear(4, 3), b=(4,)), (4,), (),
    ),
    "positions from a parameter that is longer": (
        lambda: Function(lambda m, x: m.inner[0]((x + m.p[:, 1:4]).tanh()), nn.Sequential(*head(12)), p=(1, 5, 4)),
        (3, 4), (),
    ),
    "an unused parameter": (lambda: Function(lambda m, x: m.inner[0](x), nn.Linear(4, 3), idle=(2,)), (4,), ()),
    "an output an example and position": (lambda: nn.Conv2d(2, 3, 2), (2, 3, 3), ()),
    "bilinear": (
        lambda: Function(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3)), (4,), ("inner.0.weight",),
    ),
    "transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3), *head(18)), (2, 4), ("0.weight",)),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
    "control flow on data": (
        lambda: Function(lambda m, x: F.linear(x * (2.0 if float(x.sum()) > -1e9 else 1.0), m.a @ m.b), a=(3, 2), b=(2, 4)),
        (4,), ("a", "b"),
    ),
}  # fmt: skip


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_those_of_the_jacobian(name: str) -> None:
    make, shape, formed = NETWORKS[name]
    model, x, other = randomised(make()), randn(5, *shape, seed=7), randn(3, *shape, seed=8)
    left, right = jacobian(model, x), jacobian(model, other)
    shares, crossed = contracted(left, left), sum(contracted(left, right).values())
    expected = sum(shares.values())
    assert isinstance(expected, Tensor)
    assert isinstance(crossed, Tensor)
    found = ntk(model, x, per_layer=True)
    assert set(found.formed) == set(formed)
    assert set(found.by_parameter) == set(shares)
    close(found.values, expected)
    for parameter, share in shares.items():
        close(found.by_parameter[parameter], share)
    close(ntk(model, x, other).values, crossed)
    diagonal = expected.diagonal(dim1=2, dim2=3)
    close(ntk(model, x, outputs="trace").values, diagonal.sum(-1))
    close(ntk(model, x, other, outputs="trace").values, crossed.diagonal(dim1=2, dim2=3).sum(-1))
    last = expected.shape[-1] - 1
    close(ntk(model, x, outputs=last).values, expected[..., last, last])
    mix = randn(2, last + 1, seed=9)
    mixed = torch.einsum("kc,nmcd,ld->nmkl", mix, expected, mix)
    close(ntk(model, x, directions=mix).values, mixed)
    close(ntk(model, x, outputs="trace", directions=mix).values, mixed.diagonal(dim1=2, dim2=3).sum(-1))
    close(ntk(model, x, outputs=1, directions=mix).values, mixed[..., 1, 1])


@pytest.mark.parametrize("name", ["mlp", "convolution", "few pixels, many channels", "lstm", "bilinear"])
def test_the_budget_is_kept_and_changes_nothing(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    model, x = randomised(make()), randn(5, *shape, seed=7)
    other = randn(3, *shape, seed=8)
    for second, factors in ((None, (1, 4)), (other, (2,))):
        whole = ntk(model, x, second)
        least = ntk_plan(model, x, second).least_bytes
        for budget in [factor * least for factor in factors]:
            plan = ntk_plan(model, x, second, memory_bytes=budget)
            assert plan.peak_bytes <= budget
            with Peak() as peak:
                small = ntk(model, x, second, memory_bytes=budget)
            assert peak.bytes <= plan.peak_bytes
            close(small.values, whole.values)
        with pytest.raises(MemoryBudgetError, match=f"must be at least {least:,}"):
            ntk(model, x, second, memory_bytes=least - 1)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside hold at one time; views of outer tensors do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._now, self._seen = 0, 0, weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outer = [leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {storage.data_ptr() for storage in outer}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        known = {id(one) for one in self._seen}
        if id(storage) in known:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self._now += size
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self._now -= size


def test_the_peak_meter_sees_what_lives_at_once() -> None:
    with Peak() as peak:
        total = torch.zeros(())
        for _ in range(3):
            first = torch.zeros(1000)
            total = total + (first + 1).sum()
            del first
        assert total == 3000
    assert 8000 <= peak.bytes <= 8100


def test_larger_networks_keep_their_budget() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                          nn.MaxPool2d(2), *head(512)[:1], nn.Linear(512, 280), nn.ReLU(), nn.Linear(280, 10))  # fmt: skip
    x = torch.randn(60, 1, 8, 8, generator=generator())
    for outputs in ("all", "trace"):
        plan = ntk_plan(model, x, outputs=outputs, memory_bytes=30_000_000)
        with Peak() as peak:
            ntk(model, x, outputs=outputs, memory_bytes=30_000_000)
        assert 0.2 * plan.peak_bytes < peak.bytes <= plan.peak_bytes <= 30_000_000


def test_identities() -> None:
    make, shape, _ = NETWORKS["convolution"]
    model, x = randomised(make()), randn(6, *shape, seed=7)
    found = ntk(model, x)
    norms = sum(float(rows.square().sum()) for rows in jacobian(model, x).values())
    assert float(found.matrix.trace()) == pytest.approx(norms, rel=1e-12)
    assert torch.equal(found.matrix, found.matrix.T)
    values = torch.linalg.eigvalsh(found.matrix)
    assert float(values[0]) >= -1e-8 * float(values[-1])
    joint = ntk(model, torch.cat([x[:2], x[3:]])).values
    close(joint[:2, 2:], ntk(model, x[:2], x[3:]).values)
    layers = ntk(model, x, per_layer=True).by_layer()
    assert list(layers) == ["0", "2", "4"]
    close(sum(layers.values(), torch.zeros(())), found.values)


def test_one_example_and_duplicates() -> None:
    make, shape, _ = NETWORKS["mlp"]
    model, x = randomised(make()), randn(1, *shape)
    one, four = ntk(model, x).values, ntk(model, x.expand(4, -1)).values
    close(four, one.expand(4, 4, -1, -1))


@pytest.mark.parametrize("seed", range(12))
def test_random_architectures(seed: int) -> None:
    chance = generator(seed)
    pick = lambda *options: options[int(torch.randint(len(options), (), generator=chance))]
    channels, size = pick(1, 2, 4), pick(4, 5)
    shape, layers = (channels, size, size), []
    for _ in range(pick(1, 2, 3)):
        groups = pick(1, channels)
        grown = groups * pick(1, 2, 5)
        layers.append(
            nn.Conv2d(
                channels,
                grown,
                pick(1, 2, 3),
                padding=1,
                stride=pick(1, 2),
                groups=groups,
                bias=pick(True, False),
            )
        )
        channels = grown
        layers.append(pick(nn.ReLU(), nn.Tanh(), nn.BatchNorm2d(grown), nn.GroupNorm(1, grown), nn.PReLU()))
    model = nn.Sequential(
        *layers,
        pick(nn.Flatten(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        nn.LazyLinear(pick(1, 3)),
    )
    with torch.random.fork_rng(devices=[]):
        model(torch.zeros(2, *shape))
    model, x = randomised(model), randn(4, *shape, seed=seed)
    found, rows = ntk(model, x), jacobian(model, x)
    assert not found.formed
    close(found.values, sum(contracted(rows, rows).values(), torch.zeros(())))
    close(ntk(model, x, outputs="trace").values, found.values.diagonal(dim1=2, dim2=3).sum(-1))


def test_embeddings_tied_to_the_outputs() -> None:
    tokens = torch.randint(7, (6, 4), generator=generator(5))
    tied = Function(
        lambda m, x: F.linear(m.inner[0](x).tanh().mean(1), m.inner[0].weight), nn.Embedding(7, 3)
    )
    plain = nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Tanh(), *head(12))
    few = Function(lambda m, x: m.inner[1](m.inner[0](x[:, 0]).tanh()), nn.Embedding(7, 30), nn.Linear(30, 2))
    for model in map(randomised, (tied, plain, few)):
        rows = jacobian(model, tokens)
        close(ntk(model, tokens).values, sum(contracted(rows, rows).values(), torch.zeros(())))


def test_specimens_with_batches_of_different_lengths() -> None:
    model = randomised(Function(
        lambda m, x: m.inner[0](x).add(m.p[: x.shape[1]]).tanh().mean(1), nn.Linear(2, 3), p=(6, 3)
    ))  # fmt: skip
    pieces = [randn(2, 4, 2, seed=1), randn(3, 6, 2, seed=2)]
    data = [(x, torch.zeros(len(x), dtype=torch.long)) for x in pieces]
    rows = [jacobian(model, x) for x in pieces]
    whole = {name: torch.cat([rows[0][name], rows[1][name]]) for name in rows[0]}
    specimen = Specimen(model, Classification(), data)
    close(ntk(specimen).values, sum(contracted(whole, whole).values(), torch.zeros(())))


def test_specimens_by_split_and_rows() -> None:
    make, shape, _ = NETWORKS["mlp"]
    model, x, other = randomised(make()), randn(6, *shape), randn(3, *shape, seed=1)
    labels = torch.zeros(6, dtype=torch.long)
    specimen = Specimen(model, Classification(), (x, labels), (other, labels[:3]), batch_size=4)
    close(ntk(specimen).values, ntk(model, x).values)
    close(ntk(specimen, "train", "test").values, ntk(model, x, other).values)
    close(ntk(specimen, ("train", torch.tensor([1, 4]))).values, ntk(model, x[[1, 4]]).values)
    assert model.training is False
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_module_is_measured_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    model = randomised(model).train()
    x = randn(5, 4)
    found = ntk(model, x)
    assert model.training
    close(found.values, ntk(model.eval(), x).values)


def test_several_inputs_and_language_models() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.first(left) + self.second(right)

    model = randomised(TwoInputs())
    left, right = randn(3, 4), randn(3, 2, seed=1)
    expected = left @ left.T + right @ right.T + 2
    found = ntk(model, (left, right)).values
    close(found, expected[:, :, None, None] * torch.eye(3, dtype=torch.float64))
    close(ntk(model, {"left": left, "right": right}).values, found)
    words = Specimen(
        randomised(LanguageModel()), CausalLM(), torch.randint(11, (3, 4), generator=generator())
    )
    assert ntk(words).values.shape == (3, 3, 44, 44)


def test_half_precision_is_widened() -> None:
    make, shape, _ = NETWORKS["convolution"]
    model, x = randomised(make()), randn(5, *shape, seed=7)
    expected = ntk(model, x).values
    half = ntk(model.bfloat16(), x.bfloat16()).values
    assert half.dtype == torch.float32
    assert float((half.double() - expected).norm() / expected.norm()) < 0.05
    single = ntk(randomised(make()).float(), x.float()).values
    assert float((single.double() - expected).norm() / expected.norm()) < 1e-6


def test_examples_that_influence_each_other_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()
    data = (randn(8, 4), torch.zeros(8, dtype=torch.long))
    with pytest.raises(SpecimenError, match="examples that do not influence each other"):
        ntk(Specimen(model, Classification(), data, mode="as_is"))


def test_mistakes_are_named() -> None:
    model, x = nn.Linear(4, 3), torch.zeros(2, 4)
    specimen = Specimen(model, Classification(), (x, torch.zeros(2, dtype=torch.long)))
    wrong: Any = "sum"
    with pytest.raises(SettingError, match='outputs must be "all", "trace" or an index from 0 to 2'):
        ntk(model, x, outputs=wrong)
    with pytest.raises(SettingError, match="outputs must be"):
        ntk(model, x, outputs=3)
    with pytest.raises(SettingError, match=r"directions must be a matrix \(K, 3\)"):
        ntk(model, x, directions=torch.eye(4))
    with pytest.raises(SettingError, match="needs inputs x1"):
        ntk(model)
    with pytest.raises(SettingError, match="the name of a split"):
        ntk(specimen, x)
    for rows in ([1, 0], [0, 0], [0, 2], [-1, 0]):
        with pytest.raises(SettingError, match="Indices of train examples increase and lie between 0 and 1"):
            ntk(specimen, ("train", torch.tensor(rows)))
    with pytest.raises(SettingError, match="a vector of whole numbers"):
        ntk(specimen, ("train", torch.ones(2)))
    with pytest.raises(SpecimenError, match="at least one trainable parameter"):
        ntk(nn.ReLU(), x)
    pieces = [(torch.zeros(2, 1, 5), torch.zeros(2, 3)), (torch.zeros(2, 1, 6), torch.zeros(2, 4))]
    with pytest.raises(SpecimenError, match="the same number of outputs"):
        ntk(Specimen(nn.Conv1d(1, 1, 3), Regression(), pieces))
