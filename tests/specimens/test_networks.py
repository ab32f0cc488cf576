import pytest
import torch
from torch import Tensor, nn

from torchstone.data.digits import digits
from torchstone.errors import SettingError
from torchstone.specimens.networks import digits_cnn, mlp, mnist1d_cnn, residual_mlp
from torchstone.training.evaluation import cross_entropy, mean_over
from torchstone.training.fit import fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BUILDERS = {
    "digits_cnn": (digits_cnn, (1, 8, 8), 10, 151_250),
    "mnist1d_cnn": (mnist1d_cnn, (1, 40), 10, 16_618),
    "mlp": (lambda *, generator: mlp([40, 100, 100, 10], generator=generator), (1, 40), 10, 15_210),
    "residual": (lambda *, generator: residual_mlp(5, 32, generator=generator), (1, 8, 8), 10, 12_970),
    "plain": (lambda *, generator: residual_mlp(5, 32, False, generator=generator), (64,), 10, 12_970),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_shapes_and_sizes(name):
    build, shape, outputs, size = BUILDERS[name]
    model = build(generator=generator())
    assert model(torch.zeros(3, *shape)).shape == (3, outputs)
    assert sum(parameter.numel() for parameter in model.parameters()) == size


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_come_from_the_generator_alone(name):
    build = BUILDERS[name][0]
    before = torch.get_rng_state().tolist()
    one, same, other = (build(generator=generator(seed)).state_dict() for seed in (0, 0, 1))
    assert torch.get_rng_state().tolist() == before
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))
    assert all(bool((one[key] == 0).all()) for key in one if key.endswith("bias"))


@pytest.mark.parametrize("name", BUILDERS)
def test_each_is_piecewise_linear_in_its_input(name):
    build, shape, outputs, _ = BUILDERS[name]
    model = build(generator=generator()).double()
    x = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    along = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    # A smooth curve bends at every point of a line, a piecewise linear one at finitely many.
    t = torch.linspace(-0.05, 0.05, 2001, dtype=torch.float64)
    curve = model(x + t.reshape(-1, *[1] * len(shape)) * along)
    bends = (curve[2:] - 2 * curve[1:-1] + curve[:-2]).abs().amax(1) > 1e-12
    assert curve.shape[1] == outputs
    assert 0 < float(bends.double().mean()) < 0.5


@pytest.mark.parametrize("name", BUILDERS)
def test_without_biases_each_is_positively_homogeneous_at_first(name):
    build, shape, _, _ = BUILDERS[name]
    model = build(generator=generator()).double()
    x = torch.randn(4, *shape, generator=generator(1), dtype=torch.float64)
    assert torch.allclose(model(3 * x), 3 * model(x), rtol=1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.PReLU], ids=lambda kind: kind.__name__)
def test_a_wide_dense_network_keeps_the_variance(activation):
    model = mlp([1000] * 6, activation, generator=generator())
    x = torch.randn(100, 1000, generator=generator(1))
    with torch.no_grad():
        assert float(model(x).square().mean()) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(("skip", "low", "high"), [(True, 2.2, 3.0), (False, 0.5, 2.0)])
def test_depth_does_not_let_the_variance_explode(skip, low, high):
    model = residual_mlp(30, 1000, skip, inputs=1000, generator=generator())
    assert isinstance(model, nn.Sequential)
    x = torch.randn(100, 1000, generator=generator(1))
    with torch.no_grad():
        # With skips (1 + 1/30)^30 = 2.67, without 1.
        assert low < float(model[:-2](x).square().mean()) < high


def test_an_activation_keeps_its_own_parameters():
    model = mlp([4, 5, 2], nn.PReLU, generator=generator())
    assert [layer.weight.item() for layer in model.modules() if isinstance(layer, nn.PReLU)] == [0.25]


def test_skips_let_a_deep_network_train():
    data = digits()
    losses = {}
    for skip in (True, False):
        model = residual_mlp(50, 32, skip, generator=generator())

        def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

        fit(model, cross_entropy, *data.train, optimizer=sgd, batch_size=64, epochs=4, generator=generator())
        losses[skip] = mean_over(model, cross_entropy, *data.train)
    assert losses[True] < 0.5
    assert losses[False] > 2.0


@pytest.mark.parametrize("widths", [[], [3], [3, 0, 2]])
def test_a_dense_network_needs_inputs_and_outputs(widths):
    with pytest.raises(SettingError, match="at least two positive widths"):
        mlp(widths, generator=generator())


@pytest.mark.parametrize(("depth", "width"), [(0, 4), (4, 0)])
def test_a_residual_network_needs_depth_and_width(depth, width):
    with pytest.raises(SettingError, match="depth and width of at least 1"):
        residual_mlp(depth, width, generator=generator())
