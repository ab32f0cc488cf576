"""Finding the code of an autoencoder and decoding other codes: against the layers themselves."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Regression
from torchstone.workbench import Workbench
from torchstone.workbench.code_layer import CodeLayer, code_layer
from torchstone.workbench.input_map import InputMap, input_map


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (entering, leaving) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(entering, leaving, device="meta").to_empty(device="cpu").double()
        with torch.no_grad():
            layer.weight.copy_(drawn(leaving, entering, seed=number) / entering**0.5)
            layer.bias.copy_(drawn(leaving, seed=9 + number))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def mapped(model: nn.Module, x: Tensor) -> InputMap:
    bench = Workbench.on(Specimen(model, Regression(), (x, x)))
    return input_map(bench)


def found(model: nn.Module, x: Tensor) -> CodeLayer:
    layer = code_layer(mapped(model, x), x)
    assert layer is not None
    return layer


def test_the_narrowest_layer_is_found_and_the_first_of_equal_ones():
    x = drawn(20, 6).double()
    layer = found(network(6, 4, 2, 4, 6), x)
    assert (layer.name, layer.width) == ("2", 2)
    assert code_layer(mapped(network(6, 8, 6), x), x) is None


def test_codes_and_decoded_codes_are_the_layers_own():
    x, model = drawn(20, 6).double(), network(6, 4, 2, 4, 6)
    layer = found(model, x)
    codes = layer.encode(x)
    assert torch.allclose(codes, model[:3](x))
    other = drawn(500, 2, seed=3).double()  # more than go through at a time
    assert torch.allclose(layer.decode(other), model[3:](other))


def test_the_gram_of_the_decoder_s_jacobian_is_unbiased():
    x, model = drawn(20, 6).double(), network(6, 4, 2, 4, 6)
    layer = found(model, x)
    codes = layer.encode(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda code: model[3:](code[None])[0]))(codes)
    exact = (jacobian.mT @ jacobian).mean(0).detach()
    gram = layer.decoder_gram(codes, probes=2000, generator=torch.Generator().manual_seed(0))
    assert float((gram - exact).norm() / exact.norm()) < 0.02


def test_the_map_s_jacobians_and_products_are_the_network_s():
    x, model = drawn(5, 6).double(), network(6, 4, 6)
    exact = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(x)
    states = mapped(model, x)
    assert torch.allclose(states.jacobians(x), exact)
    v = drawn(5, 6, seed=2).double()
    assert torch.allclose(states.pulled(states.linked(x), v), torch.einsum("bij,bi->bj", exact, v))


def test_no_hook_stays_behind():
    x, model = drawn(20, 6).double(), network(6, 2, 6)
    layer = found(model, x)
    layer.decode(layer.encode(x))
    assert not any(module._forward_hooks for module in model.modules())
