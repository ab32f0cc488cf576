"""The distribution over labels that a network predicts: which objectives have one, and draws from it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.objectives import Objective
from torchstone.operators.cotangents import Columns, Cotangents
from torchstone.operators.loss_curvature import loss_curvature
from torchstone.specimen import Specimen


def is_natural(objective: Objective) -> bool:
    """Whether the loss is -log p(y | outputs) with outputs as natural parameters; not inherited by another `losses`."""
    for kind in type(objective).__mro__:
        if "natural" in vars(kind):
            return bool(vars(kind)["natural"])
        if "losses" in vars(kind):
            return False
    return False


def draws_itself(objective: Objective) -> bool:
    """Whether a custom objective draws labels by its own `sampled`."""
    return type(objective).sampled is not Objective.sampled


def require_predictive(objective: Objective, kind: str) -> None:
    """Refuse an objective without a predictive distribution.

    Raises:
        SettingError: It does not say that its loss is a likelihood, nor draws labels where they shall be drawn.
    """
    if is_natural(objective) or (kind == "sampled" and draws_itself(objective)):
        return
    also = ", or write its `sampled`" if kind == "sampled" else ""
    raise SettingError(
        f'Fisher(kind="{kind}") needs an objective whose loss is -log p(y | outputs)',
        f"{type(objective).__name__}, which does not say so",
        f"Set `natural = True` on it if the outputs are natural parameters of p{also}; "
        'otherwise use GaussNewton, or kind="empirical".',
    )


class OfLabels(Cotangents):
    r"""Gradients of -log p(y | f_n) at labels drawn from the network's own p, over sqrt(samples): C = samples.

    E[sum_c s_nc s_nc^T] is the Fisher information of p in the outputs, on the scale of the loss: a position that the loss
    weighs w counts w. Labels of a softmax are drawn as such; squared error and single logits take random signs of the same second
    moment, which vary less than draws.

    An example's draws depend on the seed and its number only, so that batches and processes change nothing. A custom
    objective's own draws depend on the batches.

    Args:
        samples: Draws an example.
        seed: Of all draws.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def of(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Columns:
        """See `Cotangents`."""
        values = outputs.detach()
        drawn = (
            self._by_objective(specimen, values, batch, first)
            if draws_itself(specimen.objective)
            else self._from_loss(specimen, values, batch, first)
        )
        ones = torch.ones(drawn.shape[:2], dtype=torch.float64, device=values.device)
        return drawn / self.samples**0.5, ones

    def _by_objective(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed + first) % 2**63)
        drawn = []
        for _ in range(self.samples):
            one = specimen.objective.sampled(outputs, batch, generator)
            if not isinstance(one, Tensor) or one.shape != outputs.shape:
                came = f"shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
                raise SettingError(
                    f"Objective.sampled must return the outputs' shape {tuple(outputs.shape)}",
                    came,
                    "Return the gradient of -log p at drawn labels in the outputs.",
                )
            drawn.append(one.detach().to(outputs))
        return torch.stack(drawn)

    def _from_loss(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Tensor:
        found = loss_curvature(specimen, outputs, batch, structured=True)
        if isinstance(found, str) or not found.can_sample:
            raise SettingError(
                'Fisher(kind="sampled") needs a loss with a structure to draw from: softmax, squared error, or few outputs',
                found if isinstance(found, str) else "a loss that is not convex in the outputs",
                "Write the objective's `sampled`.",
            )
        uniforms = self._uniforms(first, outputs.shape[0], found.draws)
        return torch.stack([found.sample_at(uniforms[:, each]) for each in range(self.samples)])

    def _uniforms(self, first: int, count: int, draws: int) -> Float[Tensor, "n samples draws"]:
        generator, rows = torch.Generator(), []
        for number in range(first, first + count):
            generator.manual_seed((self.seed + number) % 2**63)
            rows.append(torch.rand(self.samples, draws, generator=generator, dtype=torch.float64))
        return torch.stack(rows)
