"""A Gaussian law over a network's weights, and losses of networks drawn from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from torchstone.bounds.gaussian_kl import gaussian_kl
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError
from torchstone.stateless import StatelessCall
from torchstone.training.evaluation import PerExample
from torchstone.training.order import seeded_epoch
from torchstone.training.presentation import Presentation


@dataclass(frozen=True)
class GaussianWeights:
    """Independent Gaussian weights; what has no law (buffers, frozen parameters) is part of the network.

    Args:
        means: By parameter name, at least in single precision.
        stds: Standard deviations, of the same shapes.
    """

    means: Mapping[str, Tensor]
    stds: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = [{name: tuple(t.shape) for name, t in part.items()} for part in (self.means, self.stds)]
        if not self.means or shapes[0] != shapes[1]:
            raise SettingError(
                "GaussianWeights needs one standard deviation for every mean, and at least one weight",
                f"means {shapes[0]}, standard deviations {shapes[1]}",
                "Pass tensors of the same names and shapes.",
            )

    @classmethod
    def around(cls, means: Mapping[str, Tensor], std: float) -> GaussianWeights:
        """The law with the same standard deviation for all weights."""
        if not (math.isfinite(std) and std > 0):
            raise SettingError("std must be positive and finite", str(std), "Pass for example 0.03.")
        wide = {name: widened(mean) for name, mean in means.items()}
        return cls(wide, {name: torch.full_like(mean, std) for name, mean in wide.items()})

    @property
    def coordinates(self) -> int:
        """How many weights are random."""
        return sum(mean.numel() for mean in self.means.values())

    def drawn(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights of one network; the noise comes from a generator on the CPU."""
        return perturbed(self.means, self.stds, generator)

    def distance(self, centre: Mapping[str, Tensor]) -> float:
        """Euclidean distance of the means from other weights."""
        return math.sqrt(self._moved(centre))

    def spread(self, centre: Mapping[str, Tensor]) -> float:
        """Expected squared distance of the weights from others: what a prior's variance has to cover."""
        return self._moved(centre) + sum(float(std.double().square().sum()) for std in self.stds.values())

    def divergence(self, centre: Mapping[str, Tensor], variance: float) -> float:
        """KL in nats from this law to the prior N(centre, variance I)."""
        scale = torch.tensor(math.sqrt(variance), dtype=torch.float64)
        return sum(
            float(
                gaussian_kl(
                    self.means[n], self.stds[n], centre[n].to(self.means[n]), scale.to(centre[n].device)
                )
            )
            for n in self.means
        )

    def _moved(self, centre: Mapping[str, Tensor]) -> float:
        return sum(
            float((mean.double() - centre[name].to(mean).double()).square().sum())
            for name, mean in self.means.items()
        )


def perturbed(
    means: Mapping[str, Tensor], stds: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Means plus standard deviations times noise, differentiable in both."""
    return {
        name: mean + stds[name] * torch.randn(mean.shape, generator=generator).to(mean)
        for name, mean in means.items()
    }


def stochastic_losses(
    model: nn.Module,
    law: GaussianWeights,
    losses: PerExample,
    x: Any,
    y: Any,
    *,
    draws: int,
    minibatch: int,
    generator: torch.Generator,
) -> Tensor:
    r"""Mean losses of independent pairs of a network drawn from a law and a minibatch drawn from the data.

    All have the expectation :math:`\hat R(Q) = E_{w \sim Q} \frac1n \sum_i \ell(w, x_i)`. For a given number of forward passes
    many small pairs tell it better than few networks on all the data, as only the number of pairs enters a bound.

    Cost: draws * minibatch examples forward. Memory: one minibatch, without a graph.

    Args:
        model: The network, in whatever mode; a copy in eval mode is used.
        law: Of its weights.
        losses: Loss by example.
        x: Inputs (N, ...), a tensor or a tree of them.
        y: Targets (N, ...), likewise.
        draws: Number of pairs.
        minibatch: Examples in each, drawn with replacement.
        generator: On the CPU.

    Returns:
        One mean for each pair, float64, (draws,).

    Raises:
        SettingError: No examples, no draws or an empty minibatch.
        ObjectiveError: `losses` does not return one number per example.
    """
    check_count("draws", draws)
    check_count("minibatch", minibatch)
    count = check_examples(x, y)
    network = StochasticCall(model, losses)
    means = []
    with torch.no_grad(), network.seeded(tree_leaves(x)[0].device, generator):
        for _ in range(draws):
            rows = torch.randint(count, (minibatch,), generator=generator)
            some_x, some_y = taken((x, y), rows)
            values = network(law.drawn(generator), some_x, some_y, minibatch)
            means.append(values.double().mean().cpu())
    return torch.stack(means)


class StochasticCall:
    """Losses of a network whose weights are put in at every call; the network itself stays as it is.

    Args:
        model: The network; a copy in eval mode is used.
        losses: Loss by example.
    """

    def __init__(self, model: nn.Module, losses: PerExample) -> None:
        self._model = copy.deepcopy(model).eval()
        presentation = Presentation(self._model, losses)
        self._call = StatelessCall(self._model, lambda _, *batch: presentation(*batch))
        self._types = {name: p.dtype for name, p in model.named_parameters()}

    def __call__(self, weights: Mapping[str, Tensor], x: Any, y: Any, count: int) -> Tensor:
        """Losses (count,) under these weights, rounded to the network's own type."""
        named = {name: value.to(self._types[name]) for name, value in weights.items()}
        return self._call(named, x, y, count)[0]

    def seeded(self, device: torch.device, generator: torch.Generator) -> Any:
        """Inside, networks that draw noise of their own take it from here, in eval mode all the same."""
        return _SeededEval(self._model, device, int(torch.randint(2**62, (), generator=generator)))


class _SeededEval:
    def __init__(self, module: nn.Module, device: torch.device, seed: int) -> None:
        self._module, self._epoch = module, seeded_epoch(module, device, seed)

    def __enter__(self) -> None:
        self._epoch.__enter__()
        self._module.eval()

    def __exit__(self, *error: Any) -> None:
        self._epoch.__exit__(*error)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that require a gradient, at least in single precision.

    Raises:
        SettingError: There are none.
    """
    weights = {name: widened(p.detach()).clone() for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise SettingError(
            "A stochastic network needs at least one trainable parameter",
            "none that requires a gradient",
            "Unfreeze a layer.",
        )
    return weights


def widened(tensor: Tensor) -> Tensor:
    """Half precision as single precision, in which small moves of the weights are kept."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def taken(tree: Any, rows: Tensor) -> Any:
    """Some examples of a tensor or a tree of them."""
    return tree_map(lambda tensor: tensor[rows.to(tensor.device)], tree)


def check_examples(x: Any, y: Any) -> int:
    """Number of examples, where inputs and targets pair up.

    Raises:
        SettingError: They do not, or there are none.
    """
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in tree_leaves((x, y))}
    if len(lengths) != 1 or 0 in lengths:
        raise SettingError(
            "x and y must hold the same number of examples, at least one",
            f"lengths {sorted(lengths)}",
            "Pass one target per input.",
        )
    return lengths.pop()
