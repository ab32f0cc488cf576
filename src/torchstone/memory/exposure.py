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
from torchstone.memory.skew_normal import fit_skew_normal, lower_tail_bits

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
    canaries: Tensor, sample: Tensor, *, resamples: int = 100, generator: torch.Generator
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

    rows = torch.randint(len(values), (resamples, len(values)), generator=generator)
    laws = fit_skew_normal(torch.cat([values[None], values[rows]]))
    bits = lower_tail_bits(canaries.cpu(), laws)
    errors = bits[1:].std(0) if resamples > 1 else torch.full_like(bits[0], math.nan)
    shape, location, scale = laws[0].tolist()
    test: Any = kstest(values.numpy(), skewnorm(shape, location, scale).cdf)
    return Extrapolated(bits[0], errors, float(test.pvalue), (shape, location, scale))


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
