"""Principal blocks of a curvature matrix, by layer, and the block-diagonal matrix that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg import LinearMap
from torchstone.operators.curvature_map import CurvatureMap
from torchstone.operators.parameter_space import ParameterSpace

Grouping = Literal["module", "parameter"] | Mapping[str, Iterable[str]]
"""What makes a block: the parameters of a module, a single one, or names listed under the block's name."""


class PrincipalBlock(LinearMap):
    """The block A_bb of a curvature matrix A, on the graphs of A.

    The same matrix as, say, `Hessian(specimen, names=...)`, which builds graphs of its own.

    Cost of a product: at most that of one with A, less for the last layers; its accuracy is A's.

    Args:
        operator: A.
        names: Parameters of the block.

    Raises:
        SettingError: Names that are not among those of A.
    """

    def __init__(self, operator: CurvatureMap, names: Iterable[str]) -> None:
        names = tuple(names)
        if not names or not set(names) <= set(operator.space.names):
            unknown = ", ".join(sorted(set(names) - set(operator.space.names))[:3])
            raise SettingError(
                "A block is made of parameters of the whole matrix",
                unknown or "no name",
                f"Choose from {', '.join(operator.space.names[:5])}, ...",
            )
        self.operator, self.space = operator, operator.space.part(names)
        shape = (self.space.size, self.space.size)
        super().__init__(shape, operator.dtype, operator.device, symmetric=True)

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self.operator.principal_products(X, [self.space])


class BlockDiagonal(LinearMap):
    r"""diag(A_11, ..., A_BB): a curvature matrix A without what lies between its blocks.

    In the order of A's parameters, so that vectors mean the same. Its eigenvalues are those of the blocks together; for
    a positive semi-definite A, A <= B times it.

    Accuracy: that of A. Cost of a product: one partial product a block, which leaves out what the block does not need: measured 1 product with
    A for a network of 4 layers, 10 for one of 41. Separate operators take 1 to 1.3 times as long. Memory: that of A,
    where separate operators take B times as much.

    Args:
        operator: A: `Hessian`, `GaussNewton`, `Fisher`, ...
        by: "module" for a block each module, "parameter" for one each parameter, or names of parameters by block.

    Attributes:
        blocks: The blocks A_bb by name: of the module ("" for the network itself), of the parameter, or as given.

    Raises:
        SettingError: Something else than a curvature matrix; groups that do not hold every parameter once.

    Source: Martens & Grosse 2015, section 4 (the block-diagonal approximation that K-FAC starts from).
    """

    def __init__(self, operator: CurvatureMap, by: Grouping = "module") -> None:
        self.blocks = per_layer(operator, by)
        super().__init__(operator.shape, operator.dtype, operator.device, symmetric=True)
        self.operator = operator
        self._spaces = [block.space for block in self.blocks.values()]
        places = torch.cat([operator.space.indices(space.names) for space in self._spaces])
        self._places = places.to(operator.device)

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        products = self.operator.principal_products(X[self._places], self._spaces)
        return torch.empty_like(products).index_copy_(0, self._places, products)


def per_layer(operator: CurvatureMap, by: Grouping = "module") -> dict[str, PrincipalBlock]:
    """The principal blocks of a curvature matrix, in the order of its parameters.

    Cost: none; every product with a block is at most one with the whole, with its accuracy.

    Args:
        operator: `Hessian`, `GaussNewton`, `Fisher`, ...
        by: As for `BlockDiagonal`.

    Returns:
        The blocks by name. All use the operator's graphs.

    Raises:
        SettingError: Something else than a curvature matrix; groups that do not hold every parameter once.

    >>> from torchstone import Specimen
    >>> from torchstone.objectives import Regression
    >>> from torchstone.operators import GaussNewton
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> G = GaussNewton(Specimen(model, Regression(), (torch.ones(4, 3), torch.zeros(4, 1))))
    >>> {name: block.shape[0] for name, block in per_layer(G).items()}
    {'0': 8, '2': 3}
    """
    if not isinstance(operator, CurvatureMap):
        raise SettingError(
            "Blocks are of a matrix in a network's parameters",
            type(operator).__name__,
            "Pass a Hessian, GaussNewton, Fisher or GradientCovariance.",
        )
    return {name: PrincipalBlock(operator, names) for name, names in _groups(operator.space, by).items()}


def _groups(space: ParameterSpace, by: Grouping) -> dict[str, list[str]]:
    if by == "parameter":
        return {name: [name] for name in space.names}
    if by == "module":
        modules: dict[str, list[str]] = {}
        for name in space.names:
            modules.setdefault(name.rpartition(".")[0], []).append(name)
        return modules
    if isinstance(by, str) or not isinstance(by, Mapping):
        raise SettingError(
            'by is "module", "parameter" or names of parameters by block', repr(by), 'Pass by="module".'
        )
    groups = {name: list(names) for name, names in by.items()}
    listed = [name for names in groups.values() for name in names]
    missing, twice = set(space.names) - set(listed), {name for name in listed if listed.count(name) > 1}
    if missing or twice:
        problem = f"{len(missing)} missing" if missing else f"{len(twice)} listed twice"
        raise SettingError(
            "Every parameter of the matrix is in one block",
            f"{problem}: {', '.join(sorted(missing or twice)[:3])}",
            "Complete the groups, or give the operator fewer names.",
        )
    return groups
