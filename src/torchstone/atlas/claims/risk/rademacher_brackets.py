r"""Closed forms pin the Rademacher complexity of linear classes to a factor sqrt 2, and the bound from it holds.

For {x -> <w, x> : |w|_2 <= B} the complexity is B E|sum_i s_i x_i| / n, and by Khintchine and Jensen

    B |X|_F / (sqrt 2 n)  <=  complexity  <=  B |X|_F / n,

both attained: by two equal inputs and by orthogonal ones. A finite class of N members of norm at most r has at most
r sqrt(2 ln N) / n (Massart). With probability 1 - delta every member's risk is at most its empirical risk
+ 2 complexity + 3 sqrt(ln(2/delta) / (2n)), the complexity being that of the losses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.rademacher import rademacher_finite, rademacher_linear
from torchstone.bounds.rademacher_bounds import linear_bracket, massart_bound, rademacher_risk_bound
from torchstone.details import Axis, Curve, Line, Table, numbers

EXAMPLES, RADIUS = 60, 1.7
DELTA, SAMPLES, MEMBERS = 0.1, 300, 1000


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The bound with all its terms."""
    return experiment(scale, generator, complexity=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The risk bound without the complexity, as if the member had been chosen before the sample."""
    return experiment(scale, generator, complexity=False)


def experiment(scale: Scale, generator: torch.Generator, complexity: bool) -> Evidence:
    """Brackets on five data sets, Massart on random classes, and the risk bound on samples of a rich class."""
    draws = 4000 if scale is Scale.QUICK else 100_000
    parts, rows = [], []
    for name, x in data_sets(generator).items():
        bracket = linear_bracket(x, RADIUS)
        found = rademacher_linear(x, RADIUS, generator, draws=draws)
        half = found.interval.width / 2
        # Three standard errors are 1.5 half-widths of a 95% interval.
        parts += [
            Evidence.at_least(f"complexity, {name}", found.value, bracket.low - 1.5 * half, "Khintchine"),
            Evidence.at_most(
                f"complexity of the ball, {name}", found.value, bracket.high + 1.5 * half + 1e-12, "Jensen"
            ),
        ]
        rows.append((name, bracket.low, found.value, half, bracket.high))
    ratios = massart_ratios(20 if scale is Scale.QUICK else 500, generator)
    violations, growth = risk_bounds(scale, generator, complexity)
    parts += [
        Evidence.at_most(
            "largest complexity / Massart's bound, 11 examples", max(ratios), 1.0, "all sign vectors"
        ),
        Evidence.at_most(f"share of samples above the risk bound, delta = {DELTA}", violations, DELTA),
    ]
    table = Table(
        "Complexity of linear functions of norm 1.7 on 60 inputs",
        ("inputs", "Khintchine (lower)", "Monte Carlo", "half-width (95%)", "Jensen (upper)"),
        tuple(rows),
        caption="Two equal inputs sit on the lower end, orthogonal inputs on the upper one.",
    )
    return Evidence.all_of(*parts, figures=(table, growth))


def data_sets(generator: torch.Generator) -> dict[str, Tensor]:
    """Inputs (60, 8) or (60, 60): typical ones and the two extremes."""
    normal = torch.randn(EXAMPLES, 8, generator=generator, dtype=torch.float64)
    heavy = normal / torch.rand(EXAMPLES, 1, generator=generator, dtype=torch.float64)
    twins = torch.zeros(EXAMPLES, 8, dtype=torch.float64)
    twins[:2, 0] = 10.0
    return {
        "normal": normal,
        "heavy tails": heavy,
        "one direction": torch.ones(EXAMPLES, 1, dtype=torch.float64) * normal[:1],
        "two equal inputs": twins,
        "orthogonal": torch.eye(EXAMPLES, dtype=torch.float64),
    }


def massart_ratios(classes: int, generator: torch.Generator) -> list[float]:
    """Exact complexity over Massart's bound for random finite classes on 11 examples."""
    ratios = []
    for k in range(classes):
        values = torch.randn(2 + (k % 20) ** 2, 11, generator=generator, dtype=torch.float64)
        values = values.sign() if k % 2 else values**3
        ratios.append(rademacher_finite(values, generator, draws=2**11).value / massart_bound(values))
    return ratios


def risk_bounds(scale: Scale, generator: torch.Generator, complexity: bool) -> tuple[float, Curve]:
    """Share of samples on which some member breaks its bound, for many coin-flip members, and the bound against n."""
    samples = SAMPLES if scale is Scale.QUICK else 10 * SAMPLES
    n, broken = 40, 0
    for _ in range(samples):
        # 0-1 losses of members that all have risk 1/2: choosing among them after the sample pays most here.
        losses = torch.randint(2, (MEMBERS, n), generator=generator, dtype=torch.int8).double()
        bound = member_bound(losses, generator, complexity)
        broken += bool(float(losses.mean(dim=1).min()) + bound < 0.5)
    sizes = (20, 40, 80, 160)
    least, with_class, without = [], [], []
    for size in sizes:
        losses = torch.randint(2, (MEMBERS, size), generator=generator, dtype=torch.int8).double()
        least.append(float(losses.mean(dim=1).min()))
        with_class.append(least[-1] + member_bound(losses, generator, True))
        without.append(least[-1] + member_bound(losses, generator, False))
    curve = Curve(
        "The best of 1000 coins on one sample",
        Axis("examples n", log=True),
        Axis("share of errors"),
        (
            Line("empirical risk of the best coin", numbers(sizes), numbers(least)),
            Line("its bound", numbers(sizes), numbers(with_class)),
            Line("without the complexity", numbers(sizes), numbers(without)),
            Line("its true risk", numbers(sizes), numbers([0.5] * len(sizes))),
        ),
        caption="The coin that looks best has risk 1/2 like all others. A bound that forgets that it was chosen falls below.",
    )
    return broken / samples, curve


def member_bound(losses: Tensor, generator: torch.Generator, complexity: bool) -> float:
    """What the bound adds to the empirical risk; a member fixed beforehand needs the one-sided deviation only."""
    n = losses.shape[1]
    if not complexity:
        return rademacher_risk_bound(0.0, 0.0, n, DELTA, of_sample=False).value
    found = rademacher_finite(losses, generator, draws=50).value
    return rademacher_risk_bound(0.0, found, n, DELTA).value


CLAIM = Claim(
    id="rademacher_brackets",
    theme=Theme.RISK,
    title="Rademacher complexity in closed form, and the risk bound from it",
    statement="The complexity of linear functions of norm at most B lies between B|X|_F/(sqrt 2 n) and B|X|_F/n, that of a "
    "finite class below Massart's bound, and risks of all members stay below their bound on a share 1 - delta of samples.",
    source="Bartlett & Mendelson 2002, theorem 8 and lemma 22; Mohri, Rostamizadeh & Talwalkar 2018, theorems 3.3, 3.7 and "
    "5.10; Khintchine 1923; Massart 2000",
    assumptions=(
        "Examples are independent and of one law, losses in [0, 1].",
        "The class is fixed before the sample.",
    ),
    refuted_by="a complexity more than three standard errors outside its bracket or above Massart's bound, or a risk bound "
    "broken on more than a share delta of samples",
    run=run,
    counterexample=counterexample,
    rows=("R06",),
)
