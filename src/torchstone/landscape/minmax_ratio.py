"""How far from convex the risk is at points of a landscape, by the extreme eigenvalues of the whole Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from torchstone.landscape.evaluate import Family, Place, Progress
from torchstone.landscape.moving import moving
from torchstone.linalg import top_eigenpairs
from torchstone.operators import Hessian, ParameterSpace
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest eigenvalue of the Hessian at one point."""

    smallest: float
    largest: float

    @property
    def ratio(self) -> float:
        """|smallest / largest| where the smallest is negative, else 0: 0 is convex, 1 as concave as convex."""
        return abs(self.smallest / self.largest) if self.smallest < 0 else 0.0


def extreme_eigenvalues(
    specimen: Specimen,
    space: ParameterSpace,
    family: Family[Place],
    places: Sequence[Place],
    generator: torch.Generator,
    split: str = "train",
    *,
    tolerance: float = 1e-2,
    products: int = 60,
    progress: Progress | None = None,
) -> list[Extremes]:
    """Both ends of the Hessian's spectrum at each point, by Lanczos.

    Cost: up to 2 `products` Hessian products a point, so a coarse grid on a sample of the examples (`on_rows`).
    Bias: both ends err inwards by at most their residuals, `tolerance` relative unless the products did not suffice.

    Args:
        specimen: What is examined.
        space: The parameters that points give values for.
        family: A line, plane or curve.
        places: Coordinates of the points.
        generator: Starting vectors.
        split: Part of the data.
        tolerance: Residual to reach, relative to the eigenvalue of largest size.
        products: Budget for each end.
        progress: Called with the number of points done and their total.

    Returns:
        One pair a point.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, section 6 and figure 7.
    """
    found = []
    with specimen.measuring(), moving(specimen, space) as put:
        for done, place in enumerate(places):
            put(family.at(place))
            hessian = Hessian(specimen, split)
            smallest, largest = (
                top_eigenpairs(
                    hessian, 1, which=which, tolerance=tolerance, max_products=products, generator=generator
                )
                for which in ("smallest", "largest")
            )
            found.append(Extremes(float(smallest.values[0]), float(largest.values[0])))
            if progress is not None:
                progress(done + 1, len(places))
    return found
