"""Exposure: how much likelier a planted secret has become than the secrets that could have stood in its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.memory.canaries import CanaryFormat

Scores = Callable[[Tensor], Tensor]
"""From token ids (N, T) to scores of the next token at each position, (N, T, V)."""

CHANCE = 1 / math.log(2)
"""Mean exposure of a secret that was never seen, in bits, for a large format: exposures are then Exp(ln 2)."""


def log_perplexities(scores: Scores, sequences: Tensor, batch_size: int = 1024) -> Tensor:
    r"""Log-perplexity :math:`-\sum_t \log_2 p(x_{t+1} \mid x_{\le t})` of each sequence, in bits.

    The first token is given. Cost: one forward pass over the sequences.

    Args:
        scores: The language model.
        sequences: Token ids (N, T), T >= 2.
        batch_size: Sequences at a time.

    Returns:
        (N,), float64, on the CPU.

    Source: Carlini et al. 2019, definition 1.
    """
    found = []
    with torch.no_grad():
        for some in sequences.split(batch_size):
            logs = scores(some)[:, :-1].double().log_softmax(dim=2)
            picked = logs.gather(2, some[:, 1:, None].to(logs.device))[:, :, 0]
            found.append(-picked.sum(1).cpu() / math.log(2))
    return torch.cat(found)


def exposure(everything: Tensor, canaries: Tensor) -> Tensor:
    r"""Exact exposure :math:`\log_2 |R| - \log_2 \mathrm{rank}` of canaries, from the log-perplexities of the whole format.

    Rank 1 is the likeliest sequence; equal ones share their mean rank. For a canary drawn uniformly and never seen the
    rank is uniform whatever the model, so that exposures are nearly Exp(ln 2), of mean 1/ln 2 = 1.44 bits (see `chance`);
    the highest is log2 |R|.

    Args:
        everything: Log-perplexities of all sequences of the format, (|R|,).
        canaries: Which of them are the canaries, (M,) (`CanaryFormat.numbers_of`).

    Returns:
        Bits, (M,), float64.

    Raises:
        NumericalError: A log-perplexity that is NaN.

    Example:
        >>> import torch
        >>> exposure(torch.tensor([4.0, 3.0, 1.0, 2.0]), torch.tensor([2, 0])).tolist()
        [2.0, 0.0]

    Source: Carlini et al. 2019, definitions 2 and 4.
    """
    values = everything.double().cpu()
    if bool(values.isnan().any()):
        raise NumericalError(
            "Log-perplexities must be numbers",
            f"{int(values.isnan().sum())} NaN",
            "Find the layer that makes NaN.",
        )
    ordered, own = values.sort().values, values[canaries]
    below = torch.searchsorted(ordered, own)
    above = torch.searchsorted(ordered, own, right=True)
    rank = (below + 1 + above).double() / 2
    return math.log2(len(ordered)) - rank.log2()


def chance(size: int) -> float:
    """Mean exposure, in bits, of a canary that was never seen: log2 |R| - log2(|R|!) / |R|, which tends to 1/ln 2.

    Example:
        >>> round(chance(2), 3), round(chance(10**6), 3)
        (0.5, 1.443)
    """
    return math.log2(size) - math.lgamma(size + 1) / math.log(2) / size


@dataclass(frozen=True)
class Extrapolated:
    """Exposures from a distribution fitted to a sample of the format.

    Args:
        exposures: Bits, (M,).
        standard_errors: Bootstrap standard errors over the sample, (M,).
        p_value: Of a Kolmogorov-Smirnov test of the fit; small where the skew-normal law does not fit.
        parameters: Shape, location and scale of the skew-normal law.
    """

    exposures: Tensor
    standard_errors: Tensor
    p_value: float
    parameters: tuple[float, float, float]


def extrapolated_exposure(
    canaries: Tensor, sample: Tensor, *, resamples: int = 20, generator: torch.Generator
) -> Extrapolated:
    r"""Exposure :math:`-\log_2 F(\text{log-perplexity})`, F a skew-normal law fitted to a sample of the format.

    Needed where the format is too large to enumerate. Bias: that of the law in its lower tail, which the sample does not
    reach; the p-value only says how it fits the bulk.

    Cost: resamples + 1 maximum-likelihood fits of three parameters.

    Args:
        canaries: Log-perplexities (M,).
        sample: Those of sequences drawn uniformly from the format, (S,), at least 20 and not all equal.
        resamples: Bootstrap samples.
        generator: Draws them.

    Raises:
        SettingError: Too small a sample, or one without spread.

    Source: Carlini et al. 2019 (approximation by a skew-normal law).
    """
    values = sample.double().cpu()
    if len(values) < 20 or not float(values.std()) > 0:
        raise SettingError(
            "A skew-normal law is fitted to at least 20 different log-perplexities",
            f"{len(values)}",
            "Draw more sequences.",
        )
    from scipy.stats import kstest, skewnorm

    law = _fitted(values)
    found = _lower_tails(canaries, law)
    again = []
    for _ in range(resamples):
        rows = torch.randint(len(values), (len(values),), generator=generator)
        again.append(_lower_tails(canaries, _fitted(values[rows])))
    errors = torch.stack(again).std(0) if resamples > 1 else torch.full_like(found, math.nan)
    test: Any = kstest(values.numpy(), skewnorm(*law).cdf)
    return Extrapolated(found, errors, float(test.pvalue), law)


def _fitted(values: Tensor) -> tuple[float, float, float]:
    """Maximum likelihood, from the moments: shape, location, scale."""
    from scipy.stats import skewnorm

    mean, deviation = float(values.mean()), float(values.std())
    skew = float(((values - mean) / deviation).pow(3).mean())
    skew = max(-0.99, min(0.99, skew))  # beyond, no skew-normal law has it
    power = abs(skew) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    delta = max(-0.995, min(0.995, delta))
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    location = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    found: Any = skewnorm.fit(values.numpy(), shape, loc=location, scale=scale)
    return float(found[0]), float(found[1]), float(found[2])


def _lower_tails(values: Tensor, law: tuple[float, float, float]) -> Tensor:
    """-log2 F, also where F itself is not a floating-point number."""
    import numpy as np
    from scipy.integrate import simpson
    from scipy.stats import norm, skewnorm

    shape, location, scale = law

    def log_density(z: Any) -> Any:
        return math.log(2) + norm.logpdf(z) + norm.logcdf(shape * z)

    found, grid = [], np.linspace(0, 40, 4001)
    for value in values.double().tolist():
        z = (value - location) / scale
        share = float(skewnorm.cdf(z, shape))
        if share > 1e-6:
            found.append(-math.log2(share))
            continue
        # The density is log-concave: in units of its slope here, exp(-v) bounds it, and equals it far out.
        top = float(log_density(z))
        t = shape * z
        hazard = -t if t < -1e4 else math.exp(norm.logpdf(t) - norm.logcdf(t))
        slope = shape * hazard - z
        drop = np.minimum(log_density(z - grid / slope) - top, 0.0) if top > -1e9 else -grid
        found.append(-(top + math.log(float(simpson(np.exp(drop), x=grid)) / slope)) / math.log(2))
    return torch.tensor(found, dtype=torch.float64)


def exposures_of(
    scores: Scores,
    form: CanaryFormat,
    canaries: Tensor,
    *,
    most: int = 20_000,
    samples: int = 2000,
    generator: torch.Generator,
) -> tuple[Tensor, Extrapolated | None]:
    """Exposures of canaries of one format: exact where it holds at most `most` sequences, else extrapolated.

    Cost: a forward pass over min(|R|, most) or `samples` sequences.

    Args:
        scores: The language model.
        form: The format.
        canaries: Token ids (M, T).
        most: Sequences to enumerate.
        samples: Sequences to draw from a larger format.
        generator: Draws them.

    Returns:
        Bits (M,), and the fit where there was one.
    """
    if form.size <= most:
        everything = torch.cat([log_perplexities(scores, chunk) for chunk in form.chunks(1024)])
        return exposure(everything, form.numbers_of(canaries)), None
    own, sample = (log_perplexities(scores, some) for some in (canaries, form.draw(samples, generator)))
    fit = extrapolated_exposure(own, sample, generator=generator)
    return fit.exposures, fit
