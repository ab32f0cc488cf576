r"""The size of the weights counts, not their number: duplicated units change the count tenfold and the bound not at all.

A two-layer network sum_j a_j relu(<w_j, x>) with c copies of each hidden unit and outgoing weights a_j / c is the same function
with c times the weights. Bounds from sums of absolute weights,

    R <= margin risk + (4 / theta) A B sqrt(2 V ln(4 d C)) / n + ...,   A = sum |a_j|, B = max_j |w_j|_1,

do not see it; bounds from counting weights grow with the root of c.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.fat_shattering import l1_fat_shattering
from torchstone.bounds.l1_margin import l1_margin_bound
from torchstone.bounds.margin import margins
from torchstone.bounds.parameter_count import network_size, parameter_rate
from torchstone.bounds.piecewise_growth import LayerSize, piecewise_linear_log_growth
from torchstone.bounds.weight_size import largest_coordinate_norm, two_layer_rademacher, weight_size
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

COPIES = (1, 2, 5, 10, 20, 50)
WIDTH = 32


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Copies share the outgoing weight of their unit."""
    return experiment(scale, generator, share=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Each copy keeps the whole outgoing weight: another function, and weights of another size."""
    return experiment(scale, generator, share=False)


def experiment(scale: Scale, generator: torch.Generator, share: bool) -> Evidence:
    """Train a small network on digits, duplicate its units and evaluate bounds of both kinds."""
    data = digits()
    x, y = data.train_x.flatten(1).double(), data.train_y
    small = trained(x, y, 20 if scale is Scale.QUICK else 200, generator)
    nets = {copies: duplicated(small, copies, share) for copies in COPIES}
    sizes = {copies: weight_size(layers(net)) for copies, net in nets.items()}
    bounds = {copies: size_bound(net, x, y) for copies, net in nets.items()}
    counts = {copies: network_size(net).weights for copies, net in nets.items()}
    rates = {copies: parameter_rate(counts[copies], 2, len(x)) for copies in COPIES}
    with torch.no_grad():
        change = float((nets[10](x) - small(x)).abs().max())
    classical = {c: two_layer_rademacher(sizes[c].layers[1], sizes[c].layers[0], 65, len(x)) for c in COPIES}
    fat = {c: l1_fat_shattering(sizes[c].value, 1.0, 65, 2, gamma=1.0) for c in COPIES}
    return Evidence.all_of(
        Evidence.at_most("largest change of an output with 10 copies", change, 1e-10, "the same function"),
        Evidence.close(
            "weights with 10 copies over weights with one", counts[10] / counts[1], 10, relative=0.05
        ),
        Evidence.at_most(
            "relative change of the bound from the size of the weights", relative(bounds, 10), 1e-9
        ),
        Evidence.at_most(
            "relative change of the size of the weights",
            relative({c: sizes[c].value for c in COPIES}, 10),
            1e-9,
        ),
        Evidence.at_most("relative change of 2 A B sqrt(2 ln(2d) / n)", relative(classical, 10), 1e-9),
        Evidence.at_most("change of the fat-shattering bound", float(abs(fat[10] - fat[1])), 1.0),
        Evidence.at_least(
            "rate sqrt(W L ln W / n) with 10 copies over one", rates[10] / rates[1], 3.0, "counting grows"
        ),
        Evidence.at_least(
            "bound on the labellings by counting, 10 copies over one",
            log_growth(10) / log_growth(1),
            5.0,
            "for a million examples",
        ),
        figures=(bounds_curve(bounds, rates), bounds_table(counts, bounds, rates)),
    )


def unfilled(width: int) -> nn.Sequential:
    """A network in float64 whose weights are to be filled in; nothing is drawn."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).double()
    return net.to_empty(device="cpu")


def trained(x: Tensor, y: Tensor, epochs: int, generator: torch.Generator) -> nn.Sequential:
    """64 inputs, 32 ReLUs, 10 scores, in float64."""
    net = unfilled(WIDTH)
    with torch.no_grad():
        for parameter in net.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.0
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    fit(net, cross_entropy, x, y, optimizer=sgd, batch_size=64, epochs=epochs, generator=generator)
    return net


def duplicated(net: nn.Sequential, copies: int, share: bool) -> nn.Sequential:
    """Each hidden unit `copies` times; its outgoing weights are shared or kept."""
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    wide = unfilled(WIDTH * copies)
    values = [
        first.weight.repeat(copies, 1),
        first.bias.repeat(copies),
        last.weight.repeat(1, copies) / (copies if share else 1),
        last.bias,
    ]
    with torch.no_grad():
        for parameter, value in zip(wide.parameters(), values, strict=True):
            parameter.copy_(value)
    return wide


def layers(net: nn.Sequential) -> list[DenseLayer]:
    """Its two affine maps."""
    return [DenseLayer(one.weight.detach(), one.bias.detach()) for one in net if isinstance(one, nn.Linear)]


def size_bound(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """The margin bound from sums of absolute weights, at margin 1, so that nothing depends on rounding."""
    with torch.no_grad():
        found = margins(net(x), y)
    norm = largest_coordinate_norm(x, constant=True)
    return l1_margin_bound(found, weight_size(layers(net)).value, norm, 65, 2, 10, theta=1.0).value


def log_growth(copies: int) -> float:
    """Nats of labellings that counting allows on a million examples."""
    width = WIDTH * copies
    return piecewise_linear_log_growth([LayerSize(65 * width, width), LayerSize(10 * width + 10, 9)], 10**6)


def relative(values: dict[int, float], copies: int) -> float:
    """Relative change from one copy."""
    return abs(values[copies] / values[1] - 1)


def bounds_curve(bounds: dict[int, float], rates: dict[int, float]) -> Curve:
    """Both kinds against the number of copies, relative to one."""
    x = tuple(float(copies) for copies in COPIES)
    lines = tuple(
        Line(name, x, tuple(values[copies] / values[1] for copies in COPIES))
        for name, values in (("size of weights", bounds), ("number of weights", rates))
    )
    root = Line("root of the number of copies", x, tuple(math.sqrt(copies) for copies in COPIES))
    return Curve(
        "Bounds for one function written with more units",
        Axis("copies of each hidden unit", log=True),
        Axis("bound, relative to one copy", log=True),
        (*lines, root),
        caption="The function never changes. The flat line is the bound from the size of the weights.",
    )


def bounds_table(counts: dict[int, int], bounds: dict[int, float], rates: dict[int, float]) -> Table:
    """The numbers behind the curve."""
    rows = tuple((c, counts[c], bounds[c], rates[c]) for c in COPIES)
    return Table("Bounds", ("copies", "weights", "bound by size", "sqrt(W L ln W / n)"), rows)


CLAIM = Claim(
    id="size_of_weights",
    theme=Theme.RISK,
    title="The size of the weights, not their number",
    statement=(
        "Writing the same network with ten copies of each unit multiplies its weights by ten and leaves the margin bound "
        "from the size of the weights as it is; bounds from counting weights grow."
    ),
    source="Bartlett 1998; Bartlett & Mendelson 2002, theorem 18; Golowich, Rakhlin & Shamir 2018, theorem 2 (constants)",
    assumptions=(
        "Copies share the outgoing weight of the unit they copy.",
        "Activations are 1-Lipschitz and 0 at 0.",
    ),
    refuted_by="a relative change of the weight-size bound by 1e-9 or more, or a counting bound that does not grow",
    run=run,
    counterexample=counterexample,
    rows=("R12",),
)
