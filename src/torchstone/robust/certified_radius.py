"""A radius within which no perturbation can change the prediction, from a Lipschitz constant."""

from __future__ import annotations

import math

from torch import Tensor

from torchstone.errors import SettingError


def certified_radius(margins: Tensor, lipschitz: float) -> Tensor:
    r"""Lower bound of the smallest l2 perturbation that changes the class: max(0, m) / (sqrt(2) L).

    A margin f_y - f_j changes by at most ||e_y - e_j|| L ||delta|| = sqrt(2) L ||delta||.

    Args:
        margins: (N,) margins of the predicted class, in the unit of the scores.
        lipschitz: L, of the scores in the 2-norm; a product of the layers' operator norms will do.

    Returns:
        (N,) radii in the unit of the inputs.

    Raises:
        SettingError: A constant that is not positive and finite.

    Source: Tsuzuku, Sato & Sugiyama 2018, proposition 1.
    """
    if not 0 < lipschitz < math.inf:
        raise SettingError(
            "lipschitz must be positive and finite", repr(lipschitz), "Multiply the layers' norms."
        )
    return margins.double().clamp(min=0) / (math.sqrt(2) * lipschitz)
