"""The spectral margin bound on networks, and the chain of layers it is read off."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.bounds.spectral import spectral_complexity
from torchstone.data.digits import digits
from torchstone.details import Scalar, Scalars
from torchstone.errors import NotApplicableError, SettingError
from torchstone.instruments.generalization.spectral_complexity import SpectralComplexity, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.workbench import Workbench
from torchstone.workbench.chain import chain


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


def drawn(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


class Functional(nn.Module):
    """Convolutions, batch normalisation, pooling and activations called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(torch.tanh(self.second(x)), 3)
        return self.head(x.flatten(1))


def specimen(model: nn.Module, **options: Any) -> Specimen:
    return Specimen(drawn(model.double()), Classification(), images(), **options)


def test_the_chain_is_the_network() -> None:
    """Running the chain's affine maps with the same activations between them gives the network's outputs."""
    one = specimen(Functional())
    layers = chain(one)
    assert [layer.name for layer in layers] == ["first", "second", "head"]
    x = images()[0]
    first, second, head = (layer.layer for layer in layers)
    hidden = F.relu(
        F.conv2d(x, first.weight, first.bias, stride=2, padding=1)
    )  # batch normalisation folded in
    hidden = torch.tanh(F.conv2d(hidden, second.weight, second.bias))
    outputs = F.linear(F.max_pool2d(hidden, 3).flatten(1), head.weight, head.bias)
    with one.measuring(), torch.no_grad():
        assert torch.allclose(outputs, one.model(x), atol=1e-10)


def test_norms_of_the_chain_are_those_of_the_dense_matrices() -> None:
    for found in chain(specimen(Functional())):
        layer: Any = found.layer
        if layer.weight.ndim == 2:
            matrix = layer.weight.double()
        else:
            shape = (layer.weight.shape[1], *layer.input_size)
            basis = torch.eye(int(torch.tensor(shape).prod()), dtype=torch.float64).reshape(-1, *shape)
            stride, padding = layer.stride, [pair[0] for pair in layer.padding]
            matrix = F.conv2d(basis, layer.weight, stride=stride, padding=padding).flatten(1).T
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert exact <= layer.norm_bound() * (1 + 1e-9)
        assert layer.norm_bound() <= 1.5 * exact  # zero padding is bounded from above
        rows = matrix.square().sum(1)
        if layer.bias is not None:
            rows = rows + layer.bias.double().repeat_interleave(len(matrix) // len(layer.bias)).square()
        assert layer.two_one_norm() == pytest.approx(float(rows.sqrt().sum()))


def test_overlapping_pooling_counts_its_overlap() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, stride=2), nn.Flatten(), nn.Linear(27, 3))
    assert [layer.lipschitz for layer in chain(specimen(model))] == [
        2.0,
        1.0,
    ]  # sqrt(2 x 2) windows share a cell


def test_frozen_layers_belong_to_the_chain() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5), nn.ReLU(), nn.Linear(5, 3))
    model[1].requires_grad_(False)
    one = specimen(model)
    assert [layer.name for layer in chain(one)] == ["1", "3"]
    assert not model[1].weight.requires_grad


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(128, 128), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x + torch.relu(self.layer(x + self.layer(x))))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(128, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x.flatten(1))
        return self.head(hidden * torch.sigmoid(hidden))


class Softmaxed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(128, 3), nn.Softmax(1))


@pytest.mark.parametrize("kind", [Residual, Gated, Softmaxed])
def test_what_is_no_chain_is_said(kind: Any) -> None:
    with pytest.raises(NotApplicableError, match="not a chain"):
        chain(specimen(kind()))
    reading = measure(SpectralComplexity(), Workbench.on(specimen(kind())))
    assert reading.verdict.level is Level.NOT_APPLICABLE


def test_the_bound_is_reported_though_vacuous_and_above_the_error() -> None:
    reading = measure(SpectralComplexity(), Workbench.on(specimen(Functional())))
    assert reading.value is not None
    assert reading.value > 1
    assert reading.verdict.level is Level.INFORMATIVE
    assert "vacuous" in reading.headline
    assert reading.uncertainty is not None
    assert reading.uncertainty.low == 0
    assert (reading.uncertainty.high, reading.uncertainty.confidence) == (reading.value, 0.95)


def test_initial_weights_serve_as_references() -> None:
    """A network that has hardly moved is hardly complex, seen from where it started."""
    model = drawn(nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 3)).double())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model[3].weight.add_(1e-3)  # pyright: ignore[reportIndexIssue]
    one = Specimen(model, Classification(), images(), recipe=Recipe(initial_state=start))
    layers, origin = chain(one), chain(one, start)
    moved = spectral_complexity([a.layer for a in layers], [a.layer for a in origin])
    assert moved.value < 0.01 * spectral_complexity([a.layer for a in layers]).value
    reading = measure(SpectralComplexity(), Workbench.on(one))
    assert "Reference matrices: initial weights." in reading.notes


def test_an_initial_state_that_does_not_fit_is_said() -> None:
    one = specimen(Functional(), recipe=Recipe(initial_state={"head.weight": torch.zeros(3, 6)}))
    reading = measure(SpectralComplexity(), Workbench.on(one))
    assert reading.verdict.level is Level.INFORMATIVE
    assert any("holds no weight for first" in note for note in reading.notes)


def test_rescaling_layers_changes_neither_bound_nor_normalised_complexity() -> None:
    def layers(factor: float) -> nn.Module:
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
        )
        drawn(model.double())
        with torch.no_grad():
            model[1].weight.mul_(factor)  # pyright: ignore[reportCallIssue]
            model[3].weight.div_(factor)  # pyright: ignore[reportCallIssue]
        return model

    terms = []
    for factor in (1.0, 100.0):
        reading = measure(
            SpectralComplexity(), Workbench.on(Specimen(layers(factor), Classification(), images()))
        )
        terms.append({item.name: item.value for item in scalars(reading)})
    for name, value in terms[0].items():
        if "R_A" in name or "margin" in name:
            assert terms[1][name] == pytest.approx(value, rel=1e-9)
    # The grid of norms costs a little more or less at another scale.
    assert terms[1]["log10 of the complexity term, reference zero"] == pytest.approx(
        terms[0]["log10 of the complexity term, reference zero"], abs=0.07
    )


def scalars(reading: Reading) -> tuple[Scalar, ...]:
    return next(detail for detail in reading.details if isinstance(detail, Scalars)).items


def test_the_terms_by_hand() -> None:
    """A dense network without biases: R_A from singular values, its normalisation from margins."""
    model = drawn(
        nn.Sequential(
            nn.Flatten(), nn.Linear(128, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
        ).double()
    )
    reading = measure(SpectralComplexity(), Workbench.on(Specimen(model, Classification(), images())))
    x, y = images()
    matrices = [parameter.detach() for parameter in model.parameters()]
    norms = [float(torch.linalg.svdvals(matrix)[0]) for matrix in matrices]
    ratios = sum((float(m.norm(dim=1).sum()) / s) ** (2 / 3) for m, s in zip(matrices, norms, strict=True))
    r_a = math.prod(norms) * ratios**1.5
    scores = model(x).detach()
    right = scores[torch.arange(len(y)), y]
    others = scores.scatter(1, y[:, None], -math.inf).max(1).values
    median = float((right - others).median())
    terms = {item.name: item.value for item in scalars(reading)}
    assert terms["||X||_F of the training inputs"] == pytest.approx(float(x.norm()), rel=1e-6)
    assert terms["median training margin"] == pytest.approx(median)
    assert terms["log10 of R_A, reference zero"] == pytest.approx(math.log10(r_a))
    expected = math.log10(r_a * float(x.norm()) / len(x) / median) if median > 0 else math.inf
    assert terms["log10 of R_A ||X||_F / (n x median margin), reference zero"] == pytest.approx(expected)


def test_random_labels_make_a_larger_normalised_complexity_than_true_ones() -> None:
    """Two networks from the same start, each trained until it fits 300 digits."""
    data = digits()
    x = data.train_x[:300]
    shuffled = data.train_y[:300][torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    found = []
    for labels in (data.train_y[:300], shuffled):
        generator = torch.Generator().manual_seed(1)
        model = mlp([64, 128, 10], generator=generator)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        fit(
            model,
            cross_entropy,
            x,
            labels,
            optimizer=optimizer,
            batch_size=50,
            epochs=100,
            generator=generator,
        )
        bench = Workbench.on(Specimen(model, Classification(), (x, labels)))
        assert int(bench.errors().sum()) == 0
        terms = {item.name: item.value for item in scalars(measure(SpectralComplexity(), bench))}
        found.append(terms["log10 of R_A ||X||_F / (n x median margin), reference zero"])
    assert found[1] > found[0] + 0.3  # a factor of 2 at least


def test_judgement_and_settings() -> None:
    assert judge(0.9).level is Level.GOOD
    assert "below 1" in judge(0.9).threshold
    assert judge(float("nan")).level is Level.INFORMATIVE
    assert "Bartlett" in judge(2.0).source
    assert judge(1.0).level is Level.INFORMATIVE
    assert judge(float("inf")).level is Level.INFORMATIVE
    with pytest.raises(SettingError, match=r"spectral_complexity\.delta"):
        SpectralComplexity(delta=0.9)
