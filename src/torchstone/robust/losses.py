"""Losses that an attack maximises, one per example; positive margins mean a wrong prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.errors import SettingError


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy :math:`\log \sum_c e^{z_c} - z_y`.

    Its gradient vanishes, to exactly zero in floating point, once the label's logit leads by some 100 (float32): an
    attack then stands still on a network that is not robust at all. `margin` and `dlr` do not saturate.

    Args:
        logits: (N, C).
        labels: (N,).

    Returns:
        (N,) in nats.
    """
    return F.cross_entropy(_full(logits), labels, reduction="none")


def targeted_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Minus the cross-entropy of the target class, (N,) in nats."""
    return -F.cross_entropy(_full(logits), targets, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    r"""By how much the best wrong class leads, :math:`\max_{c \ne y} z_c - z_y`: positive iff misclassified.

    Args:
        logits: (N, C), C >= 2.
        labels: (N,).

    Returns:
        (N,) in the unit of the logits.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).item()
        -1.0

    Source: Carlini & Wagner 2017, section V.A, f_6 with its sign turned and without the hinge.
    """
    logits = _full(logits)
    rest = logits.scatter(1, labels[:, None], -torch.inf)
    return rest.amax(dim=1) - _pick(logits, labels)


def carlini_wagner(logits: Tensor, labels: Tensor, confidence: float = 0.0) -> Tensor:
    r"""The margin capped at a confidence :math:`\kappa`, :math:`\min(\max_{c \ne y} z_c - z_y, \kappa)`.

    Past the cap its gradient is zero, so an attack stops pushing an example that is misclassified clearly enough.

    Source: Carlini & Wagner 2017, section VI.A.
    """
    return margin(logits, labels).clamp(max=confidence)


def targeted_margin(logits: Tensor, targets: Tensor) -> Tensor:
    r"""By how much the target leads, :math:`z_t - \max_{c \ne t} z_c`: positive iff the target is predicted."""
    return -margin(logits, targets)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Difference of logits ratio, :math:`-(z_y - \max_{c \ne y} z_c) / (z_{\pi_1} - z_{\pi_3})`.

    :math:`\pi` sorts the logits downwards. Adding a constant to the logits or scaling them changes nothing, so large
    logits do not hide the gradient. At least -1; positive iff misclassified.

    Args:
        logits: (N, C), C >= 3.
        labels: (N,).

    Returns:
        (N,), without unit.

    Raises:
        SettingError: Fewer than three classes.

    Example:
        >>> dlr(torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([0])).item()
        -0.5

    Source: Croce & Hein 2020 (reliable evaluation of adversarial robustness), section 4.
    """
    logits = _enough(_full(logits), 3, "dlr")
    ranked = logits.topk(3, dim=1).values
    return margin(logits, labels) / _positive(ranked[:, 0] - ranked[:, 2])


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    r"""Targeted difference of logits ratio, :math:`-(z_y - z_t) / (z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2)`.

    Args:
        logits: (N, C), C >= 4.
        labels: (N,).
        targets: (N,), the class to be reached.

    Returns:
        (N,), without unit; positive means that the target leads the label.

    Raises:
        SettingError: Fewer than four classes.

    Source: Croce & Hein 2020 (reliable evaluation of adversarial robustness), section 4.
    """
    logits = _enough(_full(logits), 4, "targeted_dlr")
    ranked = logits.topk(4, dim=1).values
    spread = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    return (_pick(logits, targets) - _pick(logits, labels)) / _positive(spread)


def _full(logits: Tensor) -> Tensor:
    """At least float32: margins of half-precision logits would be mostly ties."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def _pick(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _positive(spread: Tensor) -> Tensor:
    """Logits that all tie have no scale: the ratio is then the difference itself, near zero."""
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _enough(logits: Tensor, least: int, name: str) -> Tensor:
    if logits.shape[1] < least:
        raise SettingError(
            f"{name} needs at least {least} classes",
            f"{logits.shape[1]}",
            "Use margin, which needs two.",
        )
    return logits
