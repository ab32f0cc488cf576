"""A first-order optimiser as its stability analysis sees it: preconditioner, limit, and the factor of one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class UpdateRule:
    r"""How an optimiser steps on a quadratic with the curvature S^{1/2} (H + D) S^{1/2}, S and D diagonal.

    Args:
        name: "gradient descent", "Adam", ...
        lr: Learning rate of the first parameter group.
        limit: Largest stable eigenvalue.
        formula: The limit in symbols.
        curvature: "Hessian" or "preconditioned Hessian".
        root_scales: sqrt of S for each trainable parameter: learning rates relative to `lr`, over the preconditioner.
        decays: D for each trainable parameter: L2 penalties that the optimiser adds to the gradient.
        momentum: Heavy-ball or averaging coefficient.
        nesterov: Whether the gradient is taken ahead.
        gain: Factor of the gradient when it enters the momentum (1, or 1 - beta for averages).
    """

    name: str
    lr: float
    limit: float
    formula: str
    curvature: str
    root_scales: tuple[Tensor, ...]
    decays: tuple[Tensor, ...]
    momentum: float = 0.0
    nesterov: bool = False
    gain: float = 1.0

    def spectral_radius(self, curvature: float) -> float:
        """Largest modulus of an eigenvalue of one step's matrix along an eigenvector of that curvature.

        With a = lr gain curvature, heavy ball has z^2 - (1 + beta - a) z + beta = 0 and Nesterov
        z^2 - (1 + beta)(1 - a) z + beta (1 - a) = 0 (with the gradient taken at the point looked ahead to).
        """
        a, beta = self.lr * self.gain * curvature, self.momentum
        if self.nesterov:
            linear, constant = (1 + beta) * (1 - a), beta * (1 - a)
        else:
            linear, constant = 1 + beta - a, beta
        root = complex(linear * linear - 4 * constant) ** 0.5
        return max(abs((linear + root) / 2), abs((linear - root) / 2))


def update_rule(specimen: Specimen) -> UpdateRule:
    """The update rule of a specimen's recipe.

    Raises:
        NotApplicableError: No learning rate, an optimiser whose limit is not known, or one of other parameters.
    """
    recipe = specimen.recipe
    if recipe is None or not recipe.learning_rates:
        raise NotApplicableError("needs a recipe that says the learning rate")
    parameters = list(specimen.trainable.values())
    ones = tuple(torch.ones_like(parameter, dtype=torch.float64) for parameter in parameters)
    if recipe.live_optimizer is None:
        zeros = tuple(torch.zeros_like(one) for one in ones)
        return _momentum_rule(recipe.learning_rates[0], recipe.heavy_ball, False, 1.0, ones, zeros)
    return _of_optimizer(recipe.live_optimizer, recipe.lr, parameters, ones)


def _of_optimizer(
    optimizer: Optimizer, said: float | None, parameters: Sequence[Tensor], ones: tuple[Tensor, ...]
) -> UpdateRule:
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    missing = [parameter for parameter in parameters if id(parameter) not in groups]
    if missing:
        raise NotApplicableError("the recipe's optimiser does not hold the network's trainable parameters")
    mine = [groups[id(parameter)] for parameter in parameters]
    first = mine[0]
    for key in ("momentum", "betas", "nesterov", "dampening"):
        if any(group.get(key) != first.get(key) for group in mine):
            raise NotApplicableError(f"parameter groups differ in {key}, for which no common limit is known")
    # A schedule may have brought the rate to zero by now: what the recipe says counts.
    factor = said / float(first["lr"]) if said is not None and float(first["lr"]) > 0 else 1.0
    lr = float(said if said is not None else first["lr"])
    relative = [float(group["lr"]) * factor / lr if lr > 0 else 1.0 for group in mine]
    kind = type(optimizer).__name__
    decoupled = kind == "AdamW" or bool(first.get("decoupled_weight_decay", False))
    decays = tuple(
        one * (0.0 if decoupled else float(group.get("weight_decay", 0.0)))
        for one, group in zip(ones, mine, strict=True)
    )
    if kind == "SGD":
        scales = tuple((one * rate).sqrt() for one, rate in zip(ones, relative, strict=True))
        gain = 1 - float(first.get("dampening", 0.0)) if first["momentum"] else 1.0
        return _momentum_rule(lr, float(first["momentum"]), bool(first["nesterov"]), gain, scales, decays)
    roots = [
        _preconditioner(kind, optimizer.state[parameter], group)
        for parameter, group in zip(parameters, mine, strict=True)
    ]
    scales = tuple((rate / root).sqrt() for rate, root in zip(relative, roots, strict=True))
    if kind in ("Adam", "AdamW", "NAdam"):
        beta = float(first["betas"][0])
        limit = 2 * (1 + beta) / ((1 - beta) * lr)
        formula = "2 (1 + beta_1) / ((1 - beta_1) lr)"
        return UpdateRule(
            kind, lr, limit, formula, "preconditioned Hessian", scales, decays, beta, gain=1 - beta
        )
    beta = float(first.get("momentum", 0.0))
    rule = _momentum_rule(lr, beta, False, 1.0, scales, decays)
    return UpdateRule(kind, lr, rule.limit, rule.formula, "preconditioned Hessian", scales, decays, beta)


def _momentum_rule(
    lr: float,
    beta: float,
    nesterov: bool,
    gain: float,
    scales: tuple[Tensor, ...],
    decays: tuple[Tensor, ...],
) -> UpdateRule:
    if nesterov and beta:
        limit, formula = 2 * (1 + beta) / (lr * (1 + 2 * beta)), "2 (1 + beta) / (lr (1 + 2 beta))"
    elif beta:
        limit, formula = 2 * (1 + beta) / (lr * gain), "2 (1 + beta) / lr"
    else:
        limit, formula = 2 / lr, "2 / lr"
    name = "gradient descent" if not beta else f"gradient descent with momentum {beta:g}"
    return UpdateRule(name, lr, limit, formula, "Hessian", scales, decays, beta, nesterov and beta > 0, gain)


def _preconditioner(kind: str, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """What the optimiser divides a parameter's step by."""
    if kind not in ("Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"):
        raise NotApplicableError(f"no stability limit is known for {kind}")
    if not state:
        raise NotApplicableError(f"{kind} has made no step yet, so its preconditioner is unknown")
    eps = float(group["eps"])
    if kind == "Adagrad":
        return state["sum"].double().sqrt() + eps
    if kind == "RMSprop":
        average = state["square_avg"].double()
        if group.get("centered"):
            average = average - state["grad_avg"].double().square()
        return average.clamp(min=0).sqrt() + eps
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    return (
        (second.double() / correction).sqrt() + eps
        if correction > 0
        else torch.full_like(second.double(), math.inf)
    )
