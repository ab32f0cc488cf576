r"""Labels that are harder to fit cost spectral complexity: networks that fit random labels have smaller normalised margins.

The spectrally-normalised margin bound reads margins in units of R_A |X|_F / n. The same network is trained on the same digits
with true labels and with random ones until both are fitted. R_A itself is larger for random labels, and the bulk of the
normalised margins smaller, with every choice of reference matrices: zero, the identity, the weights at initialisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.margin import margins, normalised_margins
from torchstone.bounds.spectral import spectral_complexity
from torchstone.bounds.spectral_margin import spectral_margin_bound
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

EXAMPLES, WIDTH = 200, 64
REFERENCES = ("zero", "identity", "initial weights")


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """True labels against random ones."""
    return experiment(scale, generator, random_first=False)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Random labels on both sides: neither is harder than the other."""
    return experiment(scale, generator, random_first=True)


def experiment(scale: Scale, generator: torch.Generator, random_first: bool) -> Evidence:
    """Train pairs of networks from the same start, and compare complexities and margins."""
    pairs = 2 if scale is Scale.QUICK else 10
    data = digits()
    x, y = data.train_x[:EXAMPLES].flatten(1), data.train_y[:EXAMPLES]
    data_norm = float(x.double().norm())
    excess: dict[str, list[float]] = {name: [] for name in REFERENCES}
    raw, errors, kept = [], [], {}
    for _ in range(pairs):
        shuffled = [y[torch.randperm(EXAMPLES, generator=generator)] for _ in range(2)]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        sides = {"true": shuffled[0] if random_first else y, "random": shuffled[1]}
        found = {name: measured(x, labels, seed) for name, labels in sides.items()}
        for reference in REFERENCES:
            scale_of = {name: one.normalised(reference, data_norm) for name, one in found.items()}
            excess[reference].append(scale_of["random"] - scale_of["true"])
        raw.append(found["random"].log_complexity["zero"] - found["true"].log_complexity["zero"])
        errors += [float((one.margins <= 0).double().mean()) for one in found.values()]
        kept = found
    rescaled = kept["true"].rescaling_defect
    return Evidence.all_of(
        Evidence.at_most("largest training error", max(errors), 0.0, "both fit their labels"),
        *(
            Evidence.at_least(
                f"least excess of ln(complexity / median margin) for random labels, M = {reference}",
                min(values),
                math.log(2),
            )
            for reference, values in excess.items()
        ),
        Evidence.at_least("least excess of ln R_A for random labels, M = zero", min(raw), math.log(1.2)),
        Evidence.at_most("relative change of R_A (M = zero, no biases) by rescaling layers", rescaled, 1e-9),
        Evidence.close(
            "R_A of one linear layer over its (2,1) norm", kept["true"].single, 1.0, relative=1e-12
        ),
        Evidence.at_least(
            "least bound on the error, vacuous", min(one.bound(data_norm) for one in kept.values()), 1.0
        ),
        figures=(margins_curve(kept, data_norm), complexity_table(kept, data_norm)),
    )


class Fitted:
    """A trained network as the bound sees it."""

    def __init__(self, net: nn.Sequential, start: nn.Sequential, x: Tensor, y: Tensor) -> None:
        self.layers, self.start = layers(net), layers(start)
        with torch.no_grad():
            self.margins = margins(net(x), y)
        references = {
            "zero": None,
            "identity": [layer.identity() for layer in self.layers],
            "initial weights": self.start,
        }
        self.complexities = {name: spectral_complexity(self.layers, ref) for name, ref in references.items()}
        self.log_complexity = {name: one.log_value for name, one in self.complexities.items()}

    def normalised(self, reference: str, data_norm: float) -> float:
        """Logarithm of R_A |X|_F / n over the median margin."""
        return self.log_complexity[reference] + math.log(data_norm / EXAMPLES / float(self.margins.median()))

    def bound(self, data_norm: float) -> float:
        """On the error, with the initial weights as references."""
        return spectral_margin_bound(self.complexities["initial weights"], self.margins, data_norm).value

    @property
    def rescaling_defect(self) -> float:
        """Relative change of R_A by (1000, 1/1000), without biases."""
        bare = [DenseLayer(layer.weight.double()) for layer in self.layers]
        scaled = [DenseLayer(1000 * bare[0].weight), DenseLayer(bare[1].weight / 1000), *bare[2:]]
        return abs(math.expm1(spectral_complexity(scaled).log_value - spectral_complexity(bare).log_value))

    @property
    def single(self) -> float:
        """R_A of the first layer alone over the sum of its rows' norms."""
        weight = self.layers[0].weight.double()
        return spectral_complexity([DenseLayer(weight)]).value / float(weight.norm(dim=1).sum())


def measured(x: Tensor, y: Tensor, seed: int) -> Fitted:
    """Train three layers from a given start until all labels are fitted."""
    widths = [x.shape[1], WIDTH, WIDTH, 10]
    net, start = (mlp(widths, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    fit(net, cross_entropy, x, y, optimizer=sgd, batch_size=50, epochs=100, generator=order)
    assert isinstance(net, nn.Sequential)
    assert isinstance(start, nn.Sequential)
    return Fitted(net, start, x, y)


def layers(net: nn.Sequential) -> list[DenseLayer]:
    """Its affine maps."""
    return [DenseLayer(one.weight.detach(), one.bias.detach()) for one in net if isinstance(one, nn.Linear)]


def margins_curve(found: dict[str, Fitted], data_norm: float) -> Curve:
    """Distribution functions of the normalised margins."""
    share = numbers(torch.linspace(0, 1, EXAMPLES))
    lines = []
    for name, one in found.items():
        complexity = math.exp(one.log_complexity["initial weights"])
        scaled = normalised_margins(one.margins, complexity, data_norm, EXAMPLES).sort().values
        lines.append(Line(f"{name} labels", numbers(scaled), share))
    return Curve(
        "Normalised margins",
        Axis("margin over R_A |X|_F / n"),
        Axis("share of examples below"),
        tuple(lines),
        caption="Both networks fit all their labels. In the unit that the bound reads, random labels are fitted with less room.",
    )


def complexity_table(found: dict[str, Fitted], data_norm: float) -> Table:
    """The numbers of the last pair."""
    rows = tuple(
        (
            name,
            reference,
            one.log_complexity[reference] / math.log(10),
            one.normalised(reference, data_norm) / math.log(10),
        )
        for name, one in found.items()
        for reference in REFERENCES
    )
    columns = ("labels", "references M", "log10 R_A", "log10 of R_A |X|_F / (n x median margin)")
    return Table("Complexities", columns, rows)


CLAIM = Claim(
    id="random_labels_cost_complexity",
    theme=Theme.RISK,
    title="Random labels cost spectral complexity",
    statement=(
        "Networks that fit random labels have larger spectral complexity and smaller normalised margins than networks of the same "
        "shape that fit true ones, with zero, the identity or the initial weights as reference matrices."
    ),
    source="Bartlett, Foster & Telgarsky 2017, equation (1.2), theorem 1.1 and figure 2",
    assumptions=(
        "Both networks start from the same weights and fit all their labels.",
        "Reference matrices do not depend on the data.",
    ),
    refuted_by="a normalised complexity for random labels below twice the one for true labels",
    run=run,
    counterexample=counterexample,
    rows=("R14",),
    errata=(
        Erratum(
            "E03",
            stated="The spectral complexity has reference matrices, for which random ones are good",
            correct="R_A = prod_i |A_i| (sum_i (|A_i^T - M_i^T|_(2,1) / |A_i|)^(2/3))^(3/2), and natural references M_i are 0, "
            "the identity for residual layers, or the initial weights of this very network",
        ),
    ),
)
