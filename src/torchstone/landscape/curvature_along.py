"""Slope and curvature of the risk along a direction, for the parabola that a landscape should start as."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchstone.errors import SettingError
from torchstone.landscape.directions import embedded
from torchstone.operators import Hessian, ParameterSpace
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Parabola:
    """value + slope a + curvature a^2 / 2."""

    value: float
    slope: float
    curvature: float

    def __call__(self, place: float) -> float:
        """Its height at a."""
        return self.value + self.slope * place + 0.5 * self.curvature * place**2


def parabola_along(
    specimen: Specimen,
    space: ParameterSpace,
    direction: Tensor,
    split: str = "train",
    *,
    hessian: Hessian | None = None,
) -> Parabola:
    r"""L(theta + a d) to second order: L + a g.d + a^2 d'Hd / 2 at the network's present weights.

    Cost: one forward pass, one gradient and one Hessian product. Bias: that of the product (`Hessian.how`); at kinks the
    curvature is that of the linear piece.

    Args:
        specimen: What is examined.
        space: The parameters that the direction has entries for.
        direction: Direction d (D,), zero in frozen parameters.
        split: Part of the data.
        hessian: An operator to use again.

    Raises:
        SettingError: The direction moves a frozen parameter, which has no gradient.
    """
    if hessian is None:
        hessian = Hessian(specimen, split, [name for name in space.names if name in specimen.trainable])
    frozen = [
        name
        for name in space.names
        if name not in hessian.space.names and bool(direction[space.slices[name]].any())
    ]
    if frozen:
        raise SettingError(
            "A direction for curvature must be zero in frozen parameters",
            ", ".join(frozen[:3]),
            "Thaw or leave them out.",
        )
    parts = {name: direction[part] for name, part in space.slices.items()}
    own = embedded(hessian.space, parts)
    gradient = embedded(hessian.space, specimen.gradient(split))
    product = hessian.matvec(own.to(hessian.dtype)).double()
    return Parabola(specimen.risk(split), float(gradient @ own), float(own @ product))
