"""A first-order optimiser as its stability analysis sees it: preconditioner, limit, and the factor of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen
from torchstone.training.optimizers import made_optimizer


@dataclass(frozen=True)
class UpdateRule:
    r"""How an optimiser steps on a quadratic with the curvature S^{1/2} (H + D) S^{1/2}, S and D diagonal.

    Args:
        name: "gradient descent", "Adam", ...
        lr: Learning rate of the first trainable parameter that the optimiser holds.
        limit: Largest stable eigenvalue.
        formula: The limit in symbols.
        curvature: "Hessian" or "preconditioned Hessian".
        root_scales: sqrt of S for each trainable parameter: learning rates relative to `lr`, over the preconditioner;
            0 for one that the optimiser does not move.
        decays: D for each trainable parameter: L2 penalties that the optimiser adds to the gradient.
        momentum: Heavy-ball or averaging coefficient.
        nesterov: Whether the gradient is taken ahead.
        gain: Factor of the gradient when it enters the momentum (1, or 1 - beta for averages).
        unsettled: Why the preconditioner says little as yet; empty where it does not.
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
    unsettled: str = ""

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

    A recipe without an optimiser is taken for gradient descent with its momentum. Trainable parameters that the
    optimiser does not hold do not move: their scale is 0.

    Raises:
        NotApplicableError: No learning rate, an optimiser whose limit is not known, or one of other parameters.
    """
    recipe = specimen.recipe
    if recipe is None or not recipe.learning_rates:
        raise NotApplicableError("needs a recipe that says the learning rate")
    optimizer = recipe.optimizer
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        # a fresh one, to know its kind and coefficients
        optimizer = made_optimizer(optimizer, list(specimen.trainable.values()))
    if optimizer is not None:
        return _of_optimizer(optimizer, recipe.lr, specimen)
    ones = tuple(torch.ones_like(parameter, dtype=torch.float64) for parameter in specimen.trainable.values())
    zeros = tuple(torch.zeros_like(one) for one in ones)
    return _momentum_rule(recipe.learning_rates[0], recipe.heavy_ball, False, 1.0, ones, zeros)


@dataclass(frozen=True)
class _Held:
    """A parameter as the optimiser holds it: its group, what is remembered of it, and its learning rate."""

    group: dict[str, Any]
    state: dict[str, Any]
    rate: float


def _of_optimizer(optimizer: Optimizer, said: float | None, specimen: Specimen) -> UpdateRule:
    kind = type(optimizer).__name__
    if kind not in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"):
        raise NotApplicableError(f"no stability limit is known for {kind}")
    mine = _held(optimizer, said, specimen)
    known = [one for one in mine if one is not None]
    first = known[0].group
    for key in ("momentum", "betas", "nesterov", "dampening"):
        if any(one.group.get(key) != first.get(key) for one in known):
            raise NotApplicableError(f"parameter groups differ in {key}, for which no common limit is known")
    if any(one.group.get("maximize") for one in known):
        raise NotApplicableError("the optimiser maximises")
    lr = known[0].rate or max(one.rate for one in known)
    if not lr > 0:
        raise NotApplicableError(
            "the optimiser's learning rate is 0 by now: pass Recipe(lr=...) to judge another"
        )
    scales, decays = [], []
    for parameter, one in zip(specimen.trainable.values(), mine, strict=True):
        shape = torch.ones_like(parameter, dtype=torch.float64)
        if one is None:
            scales.append(0 * shape)
            decays.append(0 * shape)
            continue
        decay, decoupled = float(one.group.get("weight_decay", 0.0)), _is_decoupled(kind, one.group)
        # Decoupled decay shrinks x by 1 - lr decay besides the step, which brings z = -1 nearer by half of that.
        squared = shape * (one.rate / lr) / (1 - one.rate * decay / 2 if decoupled else 1.0)
        if kind != "SGD":
            squared = squared / _preconditioner(kind, one.state, one.group).to(shape.device)
        scales.append(squared.sqrt())
        decays.append(shape * (0.0 if decoupled else decay))
    rule = _rule(kind, lr, first, tuple(scales), tuple(decays))
    return replace(rule, unsettled=_unsettled(kind, known))


def _unsettled(kind: str, known: list[_Held]) -> str:
    """Adam's first gradients are all that it divides by, and where one was small by chance the step looks far too large."""
    if kind not in ("Adam", "AdamW"):
        return ""
    memory = 1 / (1 - min(0.999, float(known[0].group["betas"][0])))
    steps = min(float(one.state["step"]) for one in known)
    if steps >= memory * (1 - 1e-9):
        return ""
    return f"{kind} has made {steps:.0f} of the {memory:.0f} steps that its momentum reaches back: what it divides by is not settled"


def _rule(
    kind: str, lr: float, group: dict[str, Any], scales: tuple[Tensor, ...], decays: tuple[Tensor, ...]
) -> UpdateRule:
    beta = float(group.get("momentum", 0.0))
    if kind == "SGD":
        gain = 1 - float(group.get("dampening", 0.0)) if beta else 1.0
        return _momentum_rule(lr, beta, bool(group["nesterov"]), gain, scales, decays)
    curvature = "preconditioned Hessian"
    if kind in ("Adam", "AdamW"):
        beta = float(group["betas"][0])
        limit, formula = 2 * (1 + beta) / ((1 - beta) * lr), "2 (1 + beta_1) / ((1 - beta_1) lr)"
        return UpdateRule(kind, lr, limit, formula, curvature, scales, decays, beta, gain=1 - beta)
    rule = _momentum_rule(lr, beta, False, 1.0, scales, decays)
    return UpdateRule(kind, lr, rule.limit, rule.formula, curvature, scales, decays, beta)


def _held(optimizer: Optimizer, said: float | None, specimen: Specimen) -> list[_Held | None]:
    """What the optimiser holds of each trainable parameter; None where it does not hold it.

    A recipe's own learning rate replaces the optimiser's, and groups keep their ratios to the first.
    """
    pairs = [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]
    found = {id(parameter): (group, optimizer.state.get(parameter, {})) for group, parameter in pairs}
    if not any(id(parameter) in found for parameter in specimen.trainable.values()):
        # A copy of the network (moved to another device, say) has its parameters in the same order.
        shapes = lambda parameters: [tuple(parameter.shape) for parameter in parameters]
        copies = list(specimen.model.parameters())
        moved = any(parameter.device != specimen.device for _, parameter in pairs)
        if not moved or shapes(copies) != shapes(parameter for _, parameter in pairs):
            raise NotApplicableError(
                "the recipe's optimiser does not hold the network's trainable parameters"
            )
        found = {
            id(copy): (group, optimizer.state.get(parameter, {}))
            for copy, (group, parameter) in zip(copies, pairs, strict=True)
        }
    mine = [found.get(id(parameter)) for parameter in specimen.trainable.values()]
    groups = [one[0] for one in mine if one is not None]
    # A schedule may have brought all rates to zero by now; their ratios are then those of the start.
    over = not any(float(group["lr"]) > 0 for group in groups)
    rate = lambda group: float(group.get("initial_lr", group["lr"]) if over and said else group["lr"])
    base = rate(groups[0])
    factor = said / base if said is not None and base > 0 else 1.0
    alike = said is not None and base <= 0
    return [
        None if one is None else _Held(one[0], one[1], said if alike and said else factor * rate(one[0]))
        for one in mine
    ]


def _is_decoupled(kind: str, group: dict[str, Any]) -> bool:
    return kind == "AdamW" or bool(group.get("decoupled_weight_decay", False))


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
        limit, formula = (
            2 * (1 + beta) / (lr * gain),
            "2 (1 + beta) / lr" + ("" if gain == 1 else " / (1 - dampening)"),
        )
    else:
        limit, formula = 2 / lr, "2 / lr"
    name = "gradient descent" if not beta else f"gradient descent with momentum {beta:g}"
    return UpdateRule(name, lr, limit, formula, "Hessian", scales, decays, beta, nesterov and beta > 0, gain)


def _preconditioner(kind: str, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """What the optimiser divides a parameter's step by, corrections of bias and decays of the rate included."""
    if not state:
        raise NotApplicableError(
            f"{kind} has made no step yet, so its preconditioner is unknown: "
            "pass Recipe(optimizer=...) with the optimiser after training"
        )
    eps = float(group["eps"])
    if kind == "Adagrad":
        slowed = 1 + (float(state["step"]) - 1) * float(group["lr_decay"])
        return (state["sum"].double().sqrt() + eps) * slowed
    if kind == "RMSprop":
        average = state["square_avg"].double()
        if group.get("centered"):
            average = average - state["grad_avg"].double().square()
        return average.clamp(min=0).sqrt() + eps
    # The momentum's own correction 1 / (1 - beta_1^t) enlarges the first steps only: whether errors grow for ever is decided
    # without it, and with it the rate would look 10 times as large after the first step.
    second = float(group["betas"][1])
    average = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    return (average.double() / (1 - second ** float(state["step"]))).sqrt() + eps
