"""What does the spectrally-normalised margin bound say of this network, vacuous or not?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.bounds.margin import margins
from torchstone.bounds.spectral import SpectralComplexity as Complexity
from torchstone.bounds.spectral import spectral_complexity
from torchstone.bounds.spectral_margin import SpectralMarginBound, spectral_margin_bound
from torchstone.details import Scalar, Scalars, Table, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.chain import ChainLayer, chain


@dataclass(frozen=True)
class SpectralComplexity:
    r"""Spectral complexity R_A and the margin bound built on it, with explicit constants.

    R_A = (prod rho_i ||A_i||) (sum (||A_i^T - M_i^T||_{2,1} / ||A_i||)^{2/3})^{3/2}, with reference matrices M_i zero and,
    where `Recipe(initial_state=...)` is given, the weights at initialisation. The bound holds with probability 1 - delta
    over the training sample; its constants are derived in `torchstone.bounds.spectral_margin`. It is reported even when
    it is vacuous (above 1).

    Cost: a singular value decomposition a layer and one forward pass. Bias: an upper bound; operator norms of
    zero-padded convolutions are themselves upper bounds.
    Source: Bartlett, Foster & Telgarsky 2017, theorem 1.1.
    """

    META: ClassVar[Meta] = Meta(
        id="spectral_complexity",
        question=Question.GENERALIZATION,
        title="Spectral complexity",
        asks="What does the spectral margin bound say?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.FLOAT_INPUTS, Need.PARAMETERS),
        unit="bound on the test error",
        source="Bartlett, Foster & Telgarsky 2017, theorem 1.1",
    )
    delta: float = 0.05

    def __post_init__(self) -> None:
        require_between(self, "delta", 1e-12, 0.5)

    def measure(self, bench: Workbench) -> Reading:
        """Read the chain of layers, compute R_A for each reference and evaluate the bound."""
        layers = chain(bench.specimen)
        found = margins(bench.scores("train"), bench.labels("train"))
        data_norm = float(bench.inputs("train").double().norm())
        complexities, missing = _complexities(bench, layers)
        bounds = {
            name: spectral_margin_bound(one, found, data_norm, delta=self.delta / len(complexities))
            for name, one in complexities.items()
        }
        best = min(bounds, key=lambda name: bounds[name].value)
        bound, complexity = bounds[best], complexities[best]
        verdict = judge(bound.value)
        return Reading.of(
            self.META,
            value=bound.value,
            uncertainty=Uncertainty(
                0.0, bound.value, "examples", "upper bound on the test error", confidence=1 - self.delta
            ),
            verdict=verdict,
            headline=(
                f"The bound on the test error is {bound.value:.3g}"
                + (": vacuous, it promises nothing." if bound.value >= 1 else ".")
            ),
            explanation=(
                "Ramp loss of the training margins plus a term that grows with the product of the layers' spectral norms "
                "over the margin. Its value is in comparing networks and in showing which layer drives it."
            ),
            remedies=_remedies(verdict),
            details=(_terms(bounds, complexities, data_norm, found), _table(layers, complexity)),
            notes=(*_notes(best, complexities), *missing),
        )


def judge(bound: float) -> Verdict:
    """Good below 1; a vacuous bound is not a fault of the network, so it is informative."""
    threshold = "bound below 1 (an error rate is never above 1)"
    source = "Bartlett, Foster & Telgarsky 2017, theorem 1.1"
    if bound < 1:
        return Verdict(
            Level.GOOD, f"the test error is below {bound:.3g} with high probability", threshold, source
        )
    return Verdict(
        Level.INFORMATIVE, "vacuous: the bound says nothing about the test error", threshold, source
    )


def _complexities(
    bench: Workbench, layers: list[ChainLayer]
) -> tuple[dict[str, Complexity], tuple[str, ...]]:
    """Complexity for each set of references, and why one is missing."""
    maps = [one.layer for one in layers]
    constants = [one.lipschitz for one in layers]
    found = {"zero": spectral_complexity(maps, None, constants)}
    recipe = bench.specimen.recipe
    if recipe is None or not recipe.initial_state:
        hint = "With Recipe(initial_state=...) the weights at initialisation serve as references too."
        return found, (hint,)
    try:
        start = [one.layer for one in chain(bench.specimen, dict(recipe.initial_state))]
    except NotApplicableError as answer:
        return found, (f"The weights at initialisation do not serve as references: {answer.reason}.",)
    found["initial weights"] = spectral_complexity(maps, start, constants)
    return found, ()


def normalised_complexity(complexity: Complexity, data_norm: float, margins: Tensor) -> float:
    """Decimal logarithm of R_A ||X||_F / n over the median margin; infinite where that is not positive.

    It compares networks that scale their outputs differently, and is larger for labels that are harder to fit.

    Source: Bartlett, Foster & Telgarsky 2017, section 1 (the inverse of the normalised margin).
    """
    median = float(margins.median())
    if not (median > 0 and data_norm > 0):
        return math.inf
    return (complexity.log_value + math.log(data_norm / len(margins) / median)) / math.log(10)


def _terms(
    bounds: dict[str, SpectralMarginBound],
    complexities: dict[str, Complexity],
    data_norm: float,
    found: Tensor,
) -> Scalars:
    items = [
        Scalar("||X||_F of the training inputs", data_norm),
        Scalar("median training margin", float(found.median()), "score"),
    ]
    for name, bound in bounds.items():
        items += [
            Scalar(f"log10 of R_A, reference {name}", complexities[name].log_value / math.log(10)),
            Scalar(
                f"log10 of R_A ||X||_F / (n x median margin), reference {name}",
                normalised_complexity(complexities[name], data_norm, found),
            ),
            Scalar(f"margin term (ramp loss), reference {name}", bound.empirical),
            Scalar(
                f"log10 of the complexity term, reference {name}", bound.log_complexity_term / math.log(10)
            ),
            Scalar(f"sampling term, reference {name}", bound.deviation),
        ]
    return Scalars(
        "Terms of the bound", tuple(items), caption="The bound is the sum of the last three, in its own unit."
    )


def _table(layers: list[ChainLayer], complexity: Complexity) -> Table:
    rows = []
    for index in thin(len(layers), 60):
        norm, moved = complexity.operator_norms[index], complexity.two_one_norms[index]
        rows.append((layers[index].name, norm, moved, moved / norm if norm > 0 else None))
    columns = ("layer", "spectral norm", "(2,1) distance from reference", "ratio")
    caption = "Norms multiply: halving one layer's spectral norm halves the bound. Biases are carried by a constant unit."
    return Table("Layers", columns, tuple(rows), caption)


def _notes(best: str, complexities: dict[str, Complexity]) -> tuple[str, ...]:
    notes = [f"Reference matrices: {best}."]
    if len(complexities) > 1:
        notes.append("Both references were tried at half the failure probability each.")
    return tuple(notes)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "To tighten it, hold the layers' spectral norms down while training.",
            "torch.nn.utils.parametrizations.spectral_norm",
        ),
    )


INSTRUMENT = SpectralComplexity
