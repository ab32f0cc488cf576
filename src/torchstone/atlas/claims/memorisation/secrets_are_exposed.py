r"""A secret that is trained on can be read out of a language model; trained privately, it cannot.

A canary is a sequence with secret digits, drawn from |R| = 10,000 possible ones and planted among the training data. Its
exposure is log2 |R| - log2 of its rank among all of them by log-perplexity. A canary that was never seen has a uniform rank
whatever the model, hence an exposure that is nearly Exp(ln 2), of mean 1/ln 2 = 1.44 bits; one that is memorised reaches
log2 |R| = 13.3 bits, and the shortest path through the model's probabilities spells it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.atlas.claims.memorisation._window_model import WindowModel, next_token_losses
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.memory.canaries import CanaryFormat, planted
from torchstone.memory.exposure import CHANCE, exposures_of, log_perplexities
from torchstone.memory.extraction import extract
from torchstone.training.dp_sgd import PrivateRun, fit_privately
from torchstone.training.fit_many import fit_many

VOCABULARY = 12  # ten digits and two letters
PIN = CanaryFormat((10, 11, None, None, None, None), tuple(range(10)))
OTHERS = 300  # sequences with other people's digits
COPIES = 10  # of a canary that is planted alone
TOGETHER, TWICE = 16, 2  # canaries planted together, and copies of each
NETWORKS = 3
STEPS, PRIVATE_STEPS, BATCH = 250, 100, 64


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Planted canaries."""
    return experiment(scale, generator, COPIES, TWICE)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Canaries that are not planted: their exposure is that of chance, and nothing is read out."""
    return experiment(scale, generator, 0, 0)


def experiment(scale: Scale, generator: torch.Generator, copies: int, twice: int) -> Evidence:
    """Exposures untrained, trained, and trained privately."""
    quick = scale is Scale.QUICK
    untrained = before_training(30 if quick else 300, 10, generator)
    networks = NETWORKS if quick else 5 * NETWORKS
    others, canaries = PIN.draw(OTHERS, generator), PIN.draw(networks, generator)
    models = trained(others, canaries[:, None], copies, generator)
    pairs = list(zip(models, canaries, strict=True))
    exposed = torch.cat([exposed_by(model, canary[None], generator) for model, canary in pairs])
    read = [torch.equal(extract(model, PIN).sequences[0], canary) for model, canary in pairs]

    several = PIN.draw(TOGETHER, generator)
    [plain] = trained(others, several[None], twice, generator)
    private, spent = trained_privately(planted(others, several, twice, generator), generator)
    openly, privately = (exposed_by(model, several, generator) for model in (plain, private))
    excess = log_perplexities(private, PIN.draw(500, generator)).mean() - math.log2(PIN.size)
    return Evidence.all_of(
        Evidence.within_errors("exposure before training (bits)", untrained, CHANCE, note="1/ln 2"),
        Evidence.close(
            "smallest exposure after training (bits)", exposed.min(), math.log2(PIN.size), absolute=1e-9
        ),
        Evidence.close("share of canaries read out", float(sum(read)) / len(read), 1.0, absolute=0.0),
        Evidence.at_least(f"mean exposure of {TOGETHER} canaries together (bits)", openly.mean(), 6.0),
        Evidence.at_most("their mean exposure after private training (bits)", privately.mean(), 3.0),
        Evidence.at_most(
            "private model on new sequences: bits above the best possible",
            excess,
            2.0,
            "it has learned the format: an untrained one is more than 4 bits above",
        ),
        figures=(
            _law(untrained),
            _table(
                {
                    "before training": untrained,
                    "one canary": exposed,
                    f"{TOGETHER} canaries": openly,
                    "private": privately,
                },
                spent,
            ),
        ),
    )


def before_training(networks: int, canaries: int, generator: torch.Generator) -> Tensor:
    """Exposures of random canaries under random networks."""
    found = []
    for _ in range(networks):
        model = WindowModel(VOCABULARY, generator=generator)
        found.append(exposed_by(model, PIN.draw(canaries, generator), generator))
    return torch.cat(found)


def exposed_by(model: nn.Module, canaries: Tensor, generator: torch.Generator) -> Tensor:
    """Exact exposures in bits."""
    return exposures_of(model, PIN, canaries, generator=generator)[0]


def trained(others: Tensor, canaries: Tensor, copies: int, generator: torch.Generator) -> list[nn.Module]:
    """One network for each group of canaries (K, M, T), trained by Adam on the others and copies of its canaries."""
    data = torch.stack([planted(others, group, copies, generator) for group in canaries])
    result = fit_many(
        [WindowModel(VOCABULARY, generator=generator) for _ in canaries],
        next_token_losses,
        data[0],
        data[0],
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        batch_size=BATCH,
        steps=STEPS,
        generators=[torch.Generator().manual_seed(int(seed)) for seed in _seeds(len(data), generator)],
        inputs=data,
    )
    return [result.ensemble.member(k) for k in range(len(data))]


def trained_privately(data: Tensor, generator: torch.Generator) -> tuple[nn.Module, PrivateRun]:
    """The same, with clipped gradients of single sequences and noise."""
    model = WindowModel(VOCABULARY, generator=generator)
    spent = fit_privately(
        model,
        next_token_losses,
        data,
        data,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        batch_size=BATCH,
        steps=PRIVATE_STEPS,
        clip=0.5,
        noise=8.0,
        generator=generator,
    )
    return model, spent


def _seeds(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2**31, (count,), generator=generator)


def _law(untrained: Tensor) -> Curve:
    ordered = untrained.sort().values
    above = 1 - (torch.arange(len(ordered)) + 0.5) / len(ordered)
    kept = thin(len(ordered), 500)
    ordered, above = ordered[kept], above[kept]
    return Curve(
        "Exposure of canaries that were never seen",
        Axis("exposure", "bits"),
        Axis("share of canaries with more", log=True),
        (
            Line("measured", numbers(ordered), numbers(above)),
            Line("2^-exposure", numbers(ordered), numbers(2**-ordered)),
        ),
        (Marker("mean 1/ln 2", CHANCE, "x"),),
        caption="Random canaries under random networks. Their ranks are uniform, so that the share above t bits is 2^-t.",
    )


def _table(exposures: dict[str, Tensor], spent: PrivateRun) -> Table:
    rows = tuple(
        (name, len(found), float(found.mean()), float(found.min()), float(found.max()))
        for name, found in exposures.items()
    )
    caption = (
        f"Of {math.log2(PIN.size):.1f} bits. Private: epsilon {spent.epsilon:.2f} at delta {spent.delta:.1e} for a single "
        f"sequence; {spent.clipped:.0%} of the gradients were clipped."
    )
    return Table(
        "Exposures", ("canaries", "number", "mean (bits)", "smallest (bits)", "largest (bits)"), rows, caption
    )


CLAIM = Claim(
    id="secrets_are_exposed",
    theme=Theme.MEMORISATION,
    title="Exposure of secrets in a language model",
    statement=(
        "A secret that a language model was trained on reaches the highest exposure and can be read out by a shortest path; "
        "one it never saw has a mean exposure of 1/ln 2 bits; private training keeps it below 3 bits."
    ),
    source="Carlini, Liu, Erlingsson, Kos & Song 2019; Abadi et al. 2016 (private training)",
    assumptions=(
        "Secrets are drawn uniformly from the format, independently of everything else.",
        "The canary is planted often enough for the length of training.",
        "Private training takes each copy as an example of its own: its guarantee for two copies is weaker, with twice the epsilon.",
    ),
    refuted_by="a mean exposure before training three standard errors from 1/ln 2, a planted canary that is not the "
    "likeliest sequence of its format, or more than 3 bits after private training",
    run=run,
    counterexample=counterexample,
    rows=("M09",),
    errata=(
        Erratum(
            id="E46",
            stated='"Secret sharing" as a topic of memorisation.',
            correct="The Secret Sharer is a paper on unintended memorisation; Shamir's secret sharing is cryptography "
            "(torchstone.memory.secret_sharing has it).",
        ),
    ),
)
