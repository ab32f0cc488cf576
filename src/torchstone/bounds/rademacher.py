r"""How well can a class of functions follow random signs? The empirical Rademacher complexity, by Monte Carlo.

For functions :math:`h \in H` and a sample :math:`x_1 \dots x_n`,

.. math:: \hat{\mathfrak R}(H) = E_\sigma \sup_{h \in H} \frac1n \sum_i \sigma_i h(x_i),\qquad
          \sigma_i \in \{-1, 1\} \text{ independent and fair.}

The inner supremum is exact here: a dual norm for balls of linear functions, a maximum for finite classes. Where the
:math:`2^n` sign vectors are no more than the draws asked for, all of them are taken and the result is exact.

The Monte-Carlo error has two intervals. Student's is short and approximate. The other always covers as often as it
says: one sign of one draw moves the mean over m draws by at most :math:`2 H_i / (mn)`, :math:`H_i = \sup_h |h(x_i)|`, so by
McDiarmid's inequality its half-width is :math:`\|H\|_2 \sqrt{2 \ln(2/\alpha) / m} / n`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import NumericalError, SettingError

_CHUNK = 2**22  # entries of a block of signs or of products: 32 MB in float64


@dataclass(frozen=True)
class RademacherComplexity:
    """An empirical Rademacher complexity and the error of its Monte Carlo.

    Args:
        value: Mean over the draws; unbiased, in the unit of the functions.
        interval: Student's interval for the expectation over signs; a point where it is exact.
        guaranteed: McDiarmid's interval, which covers at least as often as it says, cut at 0 from below.
        draws: Sign vectors taken.
        exact: Whether these were all sign vectors there are.
    """

    value: float
    interval: Interval
    guaranteed: Interval
    draws: int
    exact: bool


def empirical_rademacher(
    supremum: Callable[[Tensor], Tensor],
    reach: Tensor,
    generator: torch.Generator,
    draws: int = 1000,
    confidence: float = 0.95,
) -> RademacherComplexity:
    r"""The complexity of a class given by its exact inner supremum.

    Cost: `draws` suprema, in blocks of at most 4 million signs.
    Unbiased; the standard error falls with the square root of `draws`.

    Args:
        supremum: Maps signs (m, n) to :math:`\sup_h \frac1n \sum_i \sigma_i h(x_i)`, (m,).
        reach: Largest :math:`|h(x_i)|` over the class, one an example, (n,).
        generator: The source of the signs, on the CPU.
        draws: Sign vectors; at least 2.
        confidence: Of both intervals.

    Returns:
        The value with its intervals.

    Raises:
        SettingError: Too few draws, a confidence out of range, or a supremum of the wrong shape.
        NumericalError: A supremum or a reach that is not finite.

    Example:
        >>> import torch
        >>> pair = lambda signs: signs.mean(dim=1).abs()  # the two constant functions 1 and -1
        >>> empirical_rademacher(pair, torch.ones(2), torch.Generator().manual_seed(0)).value
        0.5

    Source: Bartlett & Mendelson 2002, definition 2 (theirs is twice as large and takes absolute values).
    """
    check_count("draws", draws, least=2)
    check_confidence(confidence)
    n = check_count("The number of examples", reach.numel())
    reach = reach.detach().double().cpu().flatten()
    exact = n < 63 and 2**n <= draws
    total = 2**n if exact else draws
    block = max(1, _CHUNK // n)
    values = []
    for start in range(0, total, block):
        size = min(block, total - start)
        signs = _numbered_signs(start, size, n) if exact else random_signs(size, n, generator)
        found = supremum(signs)
        if found.shape != (size,):
            raise SettingError(
                "supremum() must return one value a sign vector",
                f"shape {tuple(found.shape)} for {size} of them",
                "Return a tensor of shape (m,).",
            )
        values.append(found.detach().double().cpu())
    sample = torch.cat(values)
    if not (bool(torch.isfinite(sample).all()) and bool(torch.isfinite(reach).all())):
        raise NumericalError(
            "A Rademacher complexity needs functions that are finite on the sample",
            f"{int((~torch.isfinite(sample)).sum())} of {total} suprema are not",
            "Remove NaN and infinite values, or bound the class.",
        )
    return _complexity(sample, float(reach.norm()) / n, exact, confidence)


def _complexity(sample: Tensor, slope: float, exact: bool, confidence: float) -> RademacherComplexity:
    value = float(sample.mean())
    if exact:
        point = Interval(value, value, 1.0, f"all {len(sample)} sign vectors")
        return RademacherComplexity(value, point, point, len(sample), exact)
    half = slope * math.sqrt(2 * math.log(2 / (1 - confidence)) / len(sample))
    # The complexity itself is never negative: any one function has mean 0.
    guaranteed = Interval(value - half, value + half, confidence, "McDiarmid").clipped(0, math.inf)
    return RademacherComplexity(value, mean_interval(sample, confidence), guaranteed, len(sample), exact)


def rademacher_linear(
    x: Tensor,
    radius: float,
    generator: torch.Generator,
    order: float = 2.0,
    draws: int = 1000,
    confidence: float = 0.95,
) -> RademacherComplexity:
    r"""Complexity of :math:`\{x \mapsto \langle w, x \rangle : \|w\|_p \le B\}`: the mean of :math:`B \|\sum_i \sigma_i x_i\|_q / n`, :math:`1/p + 1/q = 1`.

    Cost: one (draws, n) x (n, d) product.

    Args:
        x: Inputs (n, ...), flattened to (n, d).
        radius: B, not negative.
        generator: The source of the signs.
        order: p, at least 1; infinity is allowed.
        draws: Sign vectors.
        confidence: Of both intervals.

    Returns:
        The value with its intervals, in the unit of the outputs.

    Raises:
        SettingError: Inputs without a second dimension, an order below 1 or a negative radius.
        NumericalError: Inputs that are not finite.

    Source: Mohri, Rostamizadeh & Talwalkar 2018, theorems 5.10 (p = 2) and 11.15 (p = 1).
    """
    radius = check_at_least("radius", radius)
    if not order >= 1:
        raise SettingError("The order of a norm is at least 1", str(order), "Use 1, 2 or math.inf.")
    dual = math.inf if order == 1 else 1.0 if order == math.inf else order / (order - 1)
    if x.ndim < 2:
        raise SettingError(
            "rademacher_linear needs inputs (n, ...)", f"shape {tuple(x.shape)}", "Pass x[:, None]."
        )
    rows = x.detach().double().flatten(1)
    n = len(rows)

    def supremum(signs: Tensor) -> Tensor:
        sums = signs.to(rows.device) @ rows
        return radius / n * torch.linalg.vector_norm(sums, ord=dual, dim=1)

    reach = radius * torch.linalg.vector_norm(rows, ord=dual, dim=1)
    return empirical_rademacher(supremum, reach, generator, draws, confidence)


def rademacher_kernel(
    gram: Tensor, radius: float, generator: torch.Generator, draws: int = 1000, confidence: float = 0.95
) -> RademacherComplexity:
    r"""Complexity of the ball of radius B in a kernel's Hilbert space: the mean of :math:`B \sqrt{\sigma^T K \sigma} / n`.

    Cost: one (draws, n) x (n, n) product. For a network's tangent kernel this is the class that lazy training picks from.

    Args:
        gram: Positive semi-definite K (n, n).
        radius: B, not negative.
        generator: The source of the signs.
        draws: Sign vectors.
        confidence: Of both intervals.

    Returns:
        The value with its intervals.

    Raises:
        SettingError: A matrix that is not square or not symmetric, or a negative radius.
        NumericalError: Entries that are not finite, or a quadratic form clearly below 0.

    Source: Bartlett & Mendelson 2002, lemma 22.
    """
    radius = check_at_least("radius", radius)
    kernel = gram.detach().double()
    if (
        kernel.ndim != 2
        or kernel.shape[0] != kernel.shape[1]
        or not torch.allclose(kernel, kernel.T, equal_nan=True)
    ):
        raise SettingError(
            "A Gram matrix is square and symmetric",
            f"shape {tuple(gram.shape)}",
            "Pass K[i, j] = k(x_i, x_j).",
        )
    n, size = len(kernel), float(kernel.diagonal().abs().sum())

    def supremum(signs: Tensor) -> Tensor:
        signs = signs.to(kernel.device)
        forms = (signs @ kernel * signs).sum(dim=1)
        if bool((forms < -1e-9 * n * size).any()):
            raise NumericalError(
                "A Gram matrix is positive semi-definite",
                f"a quadratic form of {float(forms.min()):.3g}",
                "Check the kernel.",
            )
        return radius / n * forms.clamp(min=0).sqrt()

    return empirical_rademacher(
        supremum, radius * kernel.diagonal().clamp(min=0).sqrt(), generator, draws, confidence
    )


def rademacher_finite(
    values: Tensor, generator: torch.Generator, draws: int = 1000, confidence: float = 0.95
) -> RademacherComplexity:
    r"""Complexity of a finite class, by enumeration of its members for each draw.

    The class is first shifted to the middle of its range on each example, which changes no complexity (a fixed function
    has mean 0) and lessens the variance.

    Cost: one (draws, n) x (n, H) product, in blocks.

    Args:
        values: :math:`h(x_i)`, one member a row, (H, n).
        generator: The source of the signs.
        draws: Sign vectors.
        confidence: Of both intervals.

    Returns:
        The value with its intervals.

    Raises:
        SettingError: No member, no example, or not a matrix.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> every_labelling = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 5)
        >>> rademacher_finite(every_labelling, torch.Generator().manual_seed(0)).value
        1.0

    Source: Bartlett & Mendelson 2002, definition 2.
    """
    rows = class_values(values)
    low, high = rows.min(dim=0).values, rows.max(dim=0).values
    centred = rows - (low + high) / 2
    width = max(1, _CHUNK // len(rows))

    def supremum(signs: Tensor) -> Tensor:
        blocks = signs.to(rows.device).split(width)
        return torch.cat([(block @ centred.T).amax(dim=1) for block in blocks]) / rows.shape[1]

    return empirical_rademacher(supremum, (high - low) / 2, generator, draws, confidence)


def class_values(values: Tensor) -> Tensor:
    """The members' values (H, n) in float64, where there is a member and an example and all are finite."""
    if values.ndim != 2 or 0 in values.shape:
        raise SettingError(
            "A finite class needs values of shape (members, examples), at least one of each",
            f"shape {tuple(values.shape)}",
            "Stack the members' outputs as rows.",
        )
    rows = values.detach().double()
    if not bool(torch.isfinite(rows).all()):
        raise NumericalError(
            "A finite class needs finite values",
            f"{int((~torch.isfinite(rows)).sum())} of {rows.numel()} are NaN or infinite",
            "Remove the members or examples they belong to.",
        )
    return rows


def random_signs(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Independent fair signs (rows, n) in float64, on the CPU."""
    return 2.0 * torch.randint(2, (rows, n), generator=generator, dtype=torch.int8).double() - 1.0


def _numbered_signs(start: int, size: int, n: int) -> Tensor:
    """Sign vectors number start to start + size of the 2^n, by binary digits."""
    numbers = torch.arange(start, start + size, dtype=torch.int64)
    return 2.0 * ((numbers[:, None] >> torch.arange(n)) & 1).double() - 1.0
