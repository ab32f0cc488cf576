r"""Error bars where two things were drawn at once: trained networks, and the examples they are tested on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class CrossedError:
    """Standard error of a mean over examples of a statistic of independent groups.

    Args:
        groups: Part that comes from the draw of the groups (training sets, seeds).
        examples: Part that comes from the draw of the test examples.
        group_degrees: Degrees of freedom of the first, one less than there are groups.
        example_degrees: Degrees of freedom of the second.
        interaction: What both parts count, and is taken off their sum once; 0 where it is unknown.
    """

    groups: float
    examples: float
    group_degrees: int
    example_degrees: int
    interaction: float = 0.0

    @property
    def total(self) -> float:
        """Standard error over both draws."""
        both = self.groups**2 + self.examples**2
        return math.sqrt(max(both - self.interaction**2, self.groups**2, self.examples**2))

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the sum (Satterthwaite 1946)."""
        parts = ((self.groups**2, self.group_degrees), (self.examples**2, self.example_degrees))
        below = sum(square * square / degrees for square, degrees in parts)
        return sum(square for square, _ in parts) ** 2 / below if below > 0 else math.inf

    def interval(self, value: float, confidence: float = 0.95) -> Interval:
        """Student's interval around a value; everything where a part of the error is unknown."""
        from scipy.special import stdtrit

        check_confidence(confidence)
        if math.isnan(self.groups) or math.isnan(self.examples):
            return Interval(-math.inf, math.inf, confidence, "unknown error")
        quantile = float(stdtrit(min(self.degrees, 1e9), (1 + confidence) / 2))
        half = quantile * self.total
        return Interval(value - half, value + half, confidence, "Student t over both draws")


def crossed_mean(values: Tensor, confidence: float = 0.95) -> tuple[Interval, CrossedError]:
    r"""Interval for a mean over seeds *and* examples, :math:`\bar v = \frac1{KN}\sum_{ki} v_{ki}`.

    In the two-way random-effects model :math:`v_{ki} = \mu + s_k + x_i + e_{ki}` the variance of the mean is
    :math:`\sigma_s^2/K + \sigma_x^2/N + \sigma_e^2/(KN)`; the variances of the row means and of the column means each
    estimate their part of it and the last term, which is therefore taken off once.

    Cost: one pass over the table. Bias: the variance is unbiased; Student's quantile has Satterthwaite's degrees of
    freedom.

    Args:
        values: A loss or error of each example (columns) under each network (rows), (K, N), K and N at least 2.
        confidence: Nominal coverage for further seeds and further examples.

    Returns:
        The interval around the mean, and the parts of its standard error.

    Raises:
        SettingError: Not a table of at least two rows and two columns.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> interval, error = crossed_mean(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]))
        >>> error.groups, round(error.examples, 4)
        (0.0, 0.2887)

    Source: Searle, Casella & McCulloch 1992, section 4.4; Satterthwaite 1946.
    """
    table = checked_table(values)
    members, count = table.shape
    of_rows, of_columns = table.mean(1), table.mean(0)
    rest = table - of_rows[:, None] - of_columns + table.mean()
    noise = float(rest.square().sum()) / ((members - 1) * (count - 1))
    error = CrossedError(
        math.sqrt(float(of_rows.var()) / members),
        math.sqrt(float(of_columns.var()) / count),
        members - 1,
        count - 1,
        math.sqrt(noise / (members * count)),
    )
    return error.interval(float(table.mean()), confidence), error


def crossed_jackknife(
    table: Tensor, statistic: Callable[[Tensor], Tensor], leave_out: bool = True
) -> list[tuple[float, CrossedError]]:
    r"""Jackknife error bars for means over examples of a statistic of groups.

    The variance over groups is the jackknife's, :math:`\frac{D-1}{D} \sum_d (\theta_{(d)} - \theta_{(\cdot)})^2`, of the
    means over examples; the variance over examples is that of a mean. What comes from groups and examples together is
    counted twice, so that the sum is, if anything, too large (Hoeffding's decomposition of a two-sample statistic).

    Cost: D + 1 evaluations of the statistic.

    Args:
        table: Groups first, (D, ...).
        statistic: From groups (D', ...) to one row a quantity and one column an example, (P, N).
        leave_out: Whether there are enough groups to leave one out; the part of the groups is NaN otherwise.

    Returns:
        The mean of each quantity and its error.

    Raises:
        SettingError: Fewer than two examples.

    Source: Efron & Stein 1981; Arvesen 1969 (jackknifing U-statistics).
    """
    whole = statistic(table)
    count = whole.shape[1]
    if count < 2:
        raise SettingError("An error bar over examples needs at least 2 of them", f"{count}", "Pass more.")
    groups = torch.full((len(whole),), math.nan, dtype=torch.float64)
    if leave_out:
        kept = ~torch.eye(len(table), dtype=torch.bool)
        without = torch.stack([statistic(table[rows]).mean(1) for rows in kept])
        groups = (without.var(0, correction=0) * (len(table) - 1)).sqrt()
    examples = (whole.var(1) / count).sqrt()
    return [
        (float(mean), CrossedError(float(group), float(example), len(table) - 1, count - 1))
        for mean, group, example in zip(whole.mean(1), groups, examples, strict=True)
    ]


def checked_table(values: Tensor) -> Tensor:
    """The table in float64, where it has at least two rows and two columns of finite numbers.

    Raises:
        SettingError: Another shape.
        NumericalError: NaN or infinity.
    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise SettingError(
            "Results of several networks need shape (K, N), at least 2 networks and 2 examples",
            f"shape {tuple(values.shape)}",
            "Pass one row a network.",
        )
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "Results of several networks must be finite",
            f"{int((~torch.isfinite(values)).sum())} of {values.numel()} are NaN or infinite",
            "Leave out networks that diverged, and say so.",
        )
    return values.detach().double().cpu()
