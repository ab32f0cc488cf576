r"""Which labellings of given points can a small network realise? Enumeration, exact, for one hidden layer.

A hidden unit sees the points only through the side of its hyperplane each is on, and there are finitely many ways to
divide them (`linear_dichotomies`). For threshold units the rest is a hyperplane on the corners of a cube. For ReLU
units, once the sides and the signs of the outgoing weights are fixed, the output is *linear* in the products of
incoming and outgoing weights, so one linear programme a choice decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from torchstone.bounds.dichotomies import (
    all_labellings,
    check_signs,
    homogeneous,
    linear_dichotomies,
    positive_solution,
)
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


def threshold_network_labellings(x: Tensor, hidden: int, most: int = 20_000) -> Tensor:
    r"""All labellings of the points by networks of `hidden` threshold units and a threshold output, all with biases.

    Cost: :math:`\binom{M + k - 1}{k}` choices of k hidden units out of M dichotomies, times the threshold functions of k bits
    (4, 14, 104, 1882 for k = 1 to 4).

    Args:
        x: Points (n, d).
        hidden: k, number of hidden units, at most 4.
        most: Refuse where the points have more dichotomies.

    Returns:
        Signs (M', n), float64, without duplicates.

    Raises:
        SettingError: More than 4 hidden units or too many dichotomies.
        NumericalError: Points that are not finite.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> len(threshold_network_labellings(corners, 1)), len(threshold_network_labellings(corners, 2))
        (14, 16)

    Source: Baum & Haussler 1989, section 3 (counting hidden labellings layer by layer).
    """
    units = linear_dichotomies(x, bias=True, most=most)
    if check_count("hidden", hidden) > 4:
        raise SettingError(
            "Threshold networks are enumerated with up to 4 hidden units", str(hidden), "Use fewer."
        )
    cube = all_labellings(hidden)
    outputs = linear_dichotomies(cube, bias=True, most=most).T.contiguous()  # corner, function
    found = set()
    places = 2 ** torch.arange(hidden)
    for chosen in itertools.combinations_with_replacement(range(len(units)), hidden):
        corner = ((units[list(chosen)].T > 0).long() * places).sum(dim=1)
        found.update(map(tuple, outputs[corner].T.tolist()))
    return torch.tensor(sorted(found), dtype=torch.float64)


def relu_network_realises(x: Tensor, labels: Tensor, hidden: int, most: int = 20_000) -> bool:
    r"""Whether a network :math:`c + \sum_{j \le k} v_j \max(0, \langle w_j, x \rangle + b_j)` gives the points these signs.

    Cost: at most :math:`\binom{2M}{k}` linear programmes of k(d + 1) + 1 variables, M dichotomies; stops at the first that succeeds.

    Args:
        x: Points (n, d).
        labels: -1 and 1, (n,).
        hidden: k, number of ReLU units.
        most: Refuse where the points have more dichotomies.

    Returns:
        Whether some choice of weights does it, with a margin above 1e-8 for weights of at most 1 and points scaled to size 1.

    Raises:
        SettingError: Labels that are not signs, or too many dichotomies.
        NumericalError: Points that are not finite.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> exclusive_or = torch.tensor([-1, 1, 1, -1])
        >>> [relu_network_realises(corners, exclusive_or, k) for k in (1, 2)]
        [False, True]

    Source: The enumeration of activation patterns is that of Arora, Basu, Mianjy & Mukherjee 2018, theorem 4.1.
    """
    check_signs(labels, len(x))
    return any(
        positive_solution(labels.detach().double().cpu()[:, None] * outputs, cone) is not None
        for outputs, cone in _relu_choices(x, hidden, most)
    )


def relu_network_labellings(x: Tensor, hidden: int, most: int = 20_000) -> Tensor:
    r"""All labellings of the points by networks of one hidden layer of ReLU units with biases.

    Cost: :math:`2^{n-1}` times that of `relu_network_realises`, for labellings that are not realised in full.

    Args:
        x: Points (n, d), n at most 20 and in practice at most 7.
        hidden: k, number of ReLU units.
        most: Refuse where the points have more dichotomies.

    Returns:
        Signs (M, n), float64, without duplicates.

    Raises:
        SettingError: Too many points or dichotomies.
        NumericalError: Points that are not finite.

    Example:
        >>> import torch
        >>> len(relu_network_labellings(torch.arange(4.0)[:, None], 1))  # one change of sign, as for thresholds
        8
    """
    rows = all_labellings(len(x))
    open_rows = list(rows[: len(rows) // 2])  # -f belongs to the class with f
    found = []
    for outputs, cone in _relu_choices(x, hidden, most):
        realised = [y for y in open_rows if positive_solution(y[:, None] * outputs, cone) is not None]
        found += realised
        open_rows = [y for y in open_rows if not any(y is other for other in realised)]
    half = torch.stack(found)
    return torch.cat([half, -half])


def _relu_choices(x: Tensor, hidden: int, most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """For every choice of sides and outgoing signs: outputs as a linear map of the weights, and the cone they lie in."""
    points = homogeneous(x, bias=True)
    scaled = points / points.abs().amax()
    n = len(points)
    # A closed cell holds every unit with these sides or on their edge; a dead unit is the weight 0 of any cell, and
    # two units of one cell and sign are as good as one.
    sides = [row[:, None] for row in linear_dichotomies(x, bias=True, most=most) if bool((row > 0).any())]
    units = [(side, sign) for side in sides for sign in (1.0, -1.0)]
    for chosen in itertools.combinations(units, min(check_count("hidden", hidden, least=0), len(units))):
        blocks = [sign * (side > 0) * scaled for side, sign in chosen]
        outputs = torch.cat([*blocks, scaled.new_ones(n, 1)], dim=1)
        cells = torch.block_diag(*(side * scaled for side, _ in chosen)) if chosen else None
        yield outputs, None if cells is None else torch.cat([cells, scaled.new_zeros(len(cells), 1)], dim=1)
