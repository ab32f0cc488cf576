r"""Batch normalisation allows larger learning rates: the largest stable rate, and why weights in front of it cannot explode.

A loss that does not change with the length of w (as behind batch normalisation) has <w, grad> = 0, so a gradient step makes a
right-angled triangle:

    |w_{t+1}|^2 = |w_t|^2 + eta^2 |g_t|^2,

exactly. And |g| falls like 1/|w|: a step that is too large lengthens w, which makes the next one shorter, measured by the angle
eta |g| / |w| that w turns by. A plain network has no such brake.

What limits its rate are tails: before training already, the entries of a weight's gradient are heavy-tailed, because the means of
the units, common to all examples, are most of what goes through the deeper layers (Bjorck et al. 2018, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.signal import _tails
from torchstone.atlas.claims.signal._normalised import Kind, batch, dense, move, slope
from torchstone.details import Axis, Curve, Line, Marker, numbers

DEPTH, WIDTH, BATCH = 10, 32, 128
RATES = tuple(0.03 * 10 ** (i / 2) for i in range(5))  # 0.03 to 3
STABLE = 0.95  # of log 10, the loss of a guess: above it a network has lost what it had
RATIO = 3.0
NETWORKS, TAILS = 20, 2.0  # networks whose tails are looked at; quotient of their kurtosis
LAW_STEPS = 10


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With and without batch normalisation."""
    return experiment(scale, generator, normalised=Kind.BATCH)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """No normalisation on either side: the same rates diverge, and weights are not scale-invariant."""
    return experiment(scale, generator, normalised=Kind.PLAIN)


def experiment(scale: Scale, generator: torch.Generator, normalised: Kind) -> Evidence:
    """Final losses over rates, the length of weights along training, and tails by layer before it."""
    updates, seeds = (20, 3) if scale is Scale.QUICK else (150, 10)
    starts = torch.randint(2**48, (seeds,), generator=generator).tolist()
    plain, other = (
        torch.tensor([[final_loss(kind, rate, updates, seed) for rate in RATES] for seed in starts])
        for kind in (Kind.PLAIN, normalised)
    )
    lengths, predicted, inner = squared_lengths(normalised, 1.0, generator)
    ratio = largest_stable(other) / largest_stable(plain)
    tails, others = (
        _tails.tails_at_the_start(kind, DEPTH, WIDTH, BATCH, NETWORKS, generator)
        for kind in (Kind.PLAIN, normalised)
    )
    # The first layer sees the data, normalised or not.
    heavier = tails.gradients[:, 1:].median(0).values / others.gradients[:, 1:].median(0).values
    return Evidence.all_of(
        Evidence.at_least(
            f"largest stable rate, {normalised.value} over plain, ten layers, every seed",
            ratio.min(),
            RATIO,
            "at least 3",
        ),
        Evidence.at_most(
            "largest |<w, g>| / (|w| |g|), hidden layers", inner, 1e-12, "the loss ignores the length of w"
        ),
        Evidence.at_most(
            "largest relative error of |w|^2 + eta^2 |g|^2",
            ((lengths[1:] - predicted) / lengths[1:]).abs().max(),
            1e-13,
            "|w|^2 after the step",
        ),
        Evidence.at_least(
            f"kurtosis of the weight gradients before training, plain over {normalised.value}, median of hidden layers 2 to 9",
            heavier.median(),
            TAILS,
            f"from {float(heavier.min()):.2f} to {float(heavier.max()):.2f} over the layers",
        ),
        figures=(
            rates(plain, other, normalised),
            growth(lengths),
            _tails.curve(tails, others, normalised),
            _tails.table(tails, others, normalised),
        ),
    )


def final_loss(kind: Kind, rate: float, updates: int, seed: int) -> float:
    """Mean loss of the last five of so many updates; a loss above 10, or none, counts as 10."""
    generator = torch.Generator().manual_seed(seed)
    model, last = dense(kind, DEPTH, WIDTH, generator), []
    for _ in range(updates):
        loss, g = slope(model, *batch(BATCH, generator))
        if not loss < 1e3:
            return 10.0
        last.append(min(loss, 10.0))
        move(model, -rate * g)
    return sum(last[-5:]) / 5


def largest_stable(losses: Tensor) -> Tensor:
    """The largest rate of each seed whose final loss lies below that of a guess; NaN where none does."""
    learnt = losses < STABLE * torch.log(torch.tensor(10.0))
    largest = torch.where(learnt, torch.tensor(RATES), torch.tensor(0.0)).amax(1)
    return largest.masked_fill(largest == 0, torch.nan)


def squared_lengths(kind: Kind, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Gradient descent in float64 with an eps that rounding swallows.

    Returns:
        |w|^2 of hidden weights (steps + 1, layers); |w|^2 + eta^2 |g|^2 before each step (steps, layers); the largest cosine of
        w and g.
    """
    model = dense(kind, DEPTH, WIDTH, generator).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-100  # PyTorch takes no 0
    hidden = [module.weight for module in model if isinstance(module, nn.Linear)][:-1]
    lengths, predicted, largest = [], [], 0.0
    for _ in range(LAW_STEPS):
        x, y = batch(BATCH, generator)
        gradients = torch.autograd.grad(cross_entropy(model(x.double()), y), hidden)
        square = torch.stack([weight.detach().square().sum() for weight in hidden])
        slopes = torch.stack([gradient.square().sum() for gradient in gradients])
        lengths.append(square)
        predicted.append(square + rate**2 * slopes)
        along = torch.stack(
            [(weight.detach() * gradient).sum() for weight, gradient in zip(hidden, gradients, strict=True)]
        )
        largest = max(largest, float((along.abs() / (square * slopes).sqrt()).max()))
        with torch.no_grad():
            for weight, gradient in zip(hidden, gradients, strict=True):
                weight.sub_(rate * gradient)
    lengths.append(torch.stack([weight.detach().square().sum() for weight in hidden]))
    return torch.stack(lengths), torch.stack(predicted), largest


def rates(plain: Tensor, other: Tensor, kind: Kind) -> Curve:
    """Final loss against the rate."""
    lines = []
    for name, losses in (("plain", plain), (kind.value, other)):
        mid, low, high = losses.median(0).values, losses.amin(0), losses.amax(0)
        lines.append(Line(name, numbers(RATES), numbers(mid), numbers(low), numbers(high)))
    return Curve(
        "Final loss over the learning rate",
        Axis("learning rate", log=True),
        Axis("loss (above 10 counted as 10)"),
        tuple(lines),
        (Marker("a guess", 2.302585),),
        caption="Median of seeds, bands from the smallest to the largest. The plain network stops learning where the "
        "normalised one learns best.",
    )


def growth(lengths: Tensor) -> Curve:
    """|w| of each hidden layer over the steps."""
    at = numbers(range(len(lengths)))
    lines = [Line(f"layer {i + 1}", at, numbers(lengths[:, i].sqrt())) for i in range(lengths.shape[1])]
    return Curve(
        "Length of the hidden weights along training",
        Axis("step"),
        Axis("|w|", log=True),
        tuple(lines),
        caption="Lengths never fall, and grow fast only while steps are large.",
    )


CLAIM = Claim(
    id="batch_norm_allows_larger_steps",
    theme=Theme.SIGNAL,
    title="Batch normalisation allows larger learning rates",
    statement=(
        "Ten dense layers with batch normalisation learn at rates at least three times as large as without. Weights in front "
        "of it obey |w_{t+1}|^2 = |w_t|^2 + eta^2 |g|^2 exactly: too large a step lengthens them, and so shortens the next. "
        "Without it the gradients of the weights have heavier tails before training: at least twice the kurtosis."
    ),
    source="Bjorck, Gomes, Selman & Weinberger 2018, section 3; van Laarhoven 2017; Arora, Li & Lyu 2019, lemma 2.4",
    assumptions=(
        "Kaiming's weights, gradient steps on minibatches of digits, rates of one grid; stable means a final loss below "
        "that of a guess by 5%.",
        "For the law: the loss does not depend on the length of w (eps = 0), and steps are plain gradient descent without "
        "weight decay.",
    ),
    refuted_by="a ratio of largest stable rates below 3 for one seed, a relative error of the law above 1e-13, or a "
    "kurtosis of the gradients without normalisation below twice that with it",
    run=run,
    counterexample=counterexample,
    rows=("S09",),
)
