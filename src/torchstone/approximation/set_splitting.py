r"""Set splitting as a training problem: a family of sets can be split exactly if two ReLU units reach zero training error.

Given sets S_1, ..., S_m over v elements, is there a colouring with two colours that leaves no set in one colour? Data in R^v:

    e_i                          with target 1, for every element i
    (1/|S_j|) sum_{i in S_j} e_i   with target 0, for every set

and networks f(x) = s_1 relu(w_1'x + b_1) + s_2 relu(w_2'x + b_2) with s in {-1, 1}^2.

A split gives zero error: w_c has 1 at the elements of colour c and -r at the others, r the size of the largest set, b = 0,
s = (1, 1). At a set's centroid each sum has at least one -r and at most r - 1 ones.
Zero error gives a split. f(e_i) = 1 needs a unit of positive sign active at e_i. If s = (1, -1), that unit is active at every
element of a set S, so affine on its convex hull; f is concave there and at least 1 at the centroid, not 0. So s = (1, 1); colour
i by a unit active at e_i. Were S in one colour, that unit would be positive at the mean of points where it is positive, and
f > 0 there.

Set splitting is NP-complete (Lovász 1973; Garey & Johnson 1979, problem SP4), hence so is deciding whether two ReLU units can
reach zero error. The device of colouring elements by the unit that tells them is that of Blum & Rivest 1992 for threshold
units; Goel, Klivans, Manurangsi & Reichman 2021 prove hardness for k > 1 ReLUs and consistent data, and for k = 1 and data
that are not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.approximation.dense_layer import dense_layer
from torchstone.errors import SettingError

Sets = Sequence[Sequence[int]]


def splitting_data(elements: int, sets: Sets) -> tuple[Float[Tensor, "n v"], Float[Tensor, " n"]]:
    """Inputs (v + m, v) and targets that two ReLU units fit without error if and only if the sets can be split.

    Args:
        elements: v; elements are 0, ..., v - 1.
        sets: Each with two distinct elements or more.

    Raises:
        SettingError: A set of fewer than two elements, or with one that does not exist.
    """
    for one in sets:
        if len(set(one)) < 2 or not set(one) <= set(range(elements)):
            raise SettingError(
                f"Sets hold two or more of the elements 0 to {elements - 1}", repr(tuple(one)), "Mend it."
            )
    corners = torch.eye(elements, dtype=torch.float64)
    centroids = [corners[sorted(set(one))].mean(0) for one in sets]
    targets = torch.cat([corners.new_ones(elements), corners.new_zeros(len(sets))])
    return torch.stack([*corners, *centroids]), targets


def find_split(elements: int, sets: Sets) -> tuple[int, ...] | None:
    """A colour (0 or 1) for each element that leaves no set in one colour, or None; by trying all 2^v.

    >>> find_split(3, [(0, 1), (1, 2)]), find_split(3, [(0, 1), (1, 2), (0, 2)])
    ((0, 1, 0), None)
    """
    for colours in itertools.product((0, 1), repeat=elements):
        if all(len({colours[i] for i in one}) == 2 for one in sets):
            return colours
    return None


def splitting_network(colours: Sequence[int], sets: Sets) -> nn.Sequential:
    """The two units that fit `splitting_data` exactly, from a split: `Linear(v, 2)`, `ReLU`, `Linear(2, 1)`."""
    largest = max(len(one) for one in sets)
    of_first = torch.tensor([colour == 0 for colour in colours])
    same = torch.stack([of_first, ~of_first]).double()
    weight = same - largest * (1 - same)
    zero, ones = torch.zeros(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    return nn.Sequential(dense_layer(weight, zero), nn.ReLU(), dense_layer(ones, zero[:1]))
