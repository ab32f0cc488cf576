r"""How large is a network? Its weights W and layers L, and the rate :math:`\sqrt{W L \ln W / n}` that counting them gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


@dataclass(frozen=True)
class NetworkSize:
    """What parameter-counting bounds know of a network.

    Args:
        weights: W, numbers that training may change, each once however often it is used.
        layers: L, modules that own a weight of two dimensions or more.
        frozen: Numbers that training may not change; they are no part of W.

    Example:
        >>> NetworkSize(weights=10, layers=1, frozen=0).layers
        1
    """

    weights: int
    layers: int
    frozen: int


def network_size(model: nn.Module) -> NetworkSize:
    r"""Weights W and layers L of any network.

    Tied parameters count once. Elementwise scales and shifts (batch and layer normalisation) are weights but no layers: in
    evaluation they fold into a neighbour. A module used several times (a recurrent cell) is one layer here, so for such
    networks multiply `layers` by the number of uses before a bound sees it.

    Cost: none.

    Args:
        model: Any module; parametrised weights are counted by what is trained.

    Returns:
        The counts; zeros for a network without parameters.

    Raises:
        SettingError: Lazy parameters whose size is not known yet.

    Example:
        >>> from torch import nn
        >>> size = network_size(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
        >>> size.weights, size.layers
        (83, 2)

    Source: Bartlett, Harvey, Liaw & Mehrabian 2019, section 1 (W counts weights and biases, L layers).
    """
    parameters = list(model.parameters())
    if any(is_lazy(parameter) for parameter in parameters):
        raise SettingError(
            "network_size needs parameters of known size", "a lazy module", "Run the network once on a batch."
        )
    weights = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    return NetworkSize(weights, sum(1 for module in model.modules() if _is_layer(module)), frozen)


def parameter_rate(weights: int, layers: int, n: int) -> float:
    r"""The rate of parameter counting, :math:`\sqrt{W L \ln W / n}`.

    It is the order of the gap that the VC dimension :math:`\Theta(W L \ln W)` of ReLU networks allows, **without its
    constant**: a number to compare architectures by, not a bound. `piecewise_linear_log_growth` has the constants.
    Beyond 1 it says nothing even if the constant were 1.

    Args:
        weights: W, at least 2.
        layers: L.
        n: Number of examples.

    Returns:
        The rate, a share of examples.

    Raises:
        SettingError: A count out of range.

    Example:
        >>> round(parameter_rate(1000, 3, 60_000), 4)
        0.5877

    Source: Bartlett, Harvey, Liaw & Mehrabian 2019, theorems 1 and 6; Bartlett, Maiorov & Meir 1998.
    """
    check_count("weights", weights, least=2)
    product = weights * check_count("layers", layers) * math.log(weights)
    return math.sqrt(product / check_count("n", n))


def _is_layer(module: nn.Module) -> bool:
    # A parametrised weight belongs to the module that uses it.
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | ParametrizationList):
        return False
    own = [*module.parameters(recurse=False), *_parametrised(module)]
    return any(isinstance(tensor, Tensor) and tensor.ndim >= 2 for tensor in own)


def _parametrised(module: nn.Module) -> list[Tensor]:
    """What parametrised tensors of this module are made from."""
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, nn.ModuleDict):
        return []
    return [parameter for one in lists.values() for parameter in one.parameters(recurse=False)]
