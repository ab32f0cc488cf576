"""Signs that gradient attacks are being misused, so that the robust accuracy they give would flatter the model.

Source: the five flags of AutoAttack (Croce & Hein 2020; flags_doc of its released code, whose thresholds are the defaults
here), which go back to Carlini et al. 2019, sections 5.2 and 5.4, Croce et al. 2020 (RobustBench) and Pintor et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchstone.errors import SettingError
from torchstone.robust.norms import flat, wide


class Flag(Enum):
    """The five flags of AutoAttack, each as the sentence that it stands for."""

    RANDOMISED = "The model's outputs differ from one pass to the next."
    PROBABILITIES = "The model returns probabilities where attacks need logits."
    ZERO_GRADIENTS = "The loss has no gradient with respect to some inputs."
    WEAKER_ATTACK_WINS = "A weaker attack breaks examples that the stronger one does not."
    DYNAMIC = "The model takes gradients while it predicts."


@dataclass(frozen=True)
class Finding:
    """One check's outcome.

    Args:
        flag: Which sign was looked for.
        raised: Whether it is there.
        value: The number the decision was made on.
        threshold: The flag is raised where the value is above this.
        words: What was measured, one sentence with the number.
        advice: What to do, "" where the flag is not raised.
    """

    flag: Flag
    raised: bool
    value: float
    threshold: float
    words: str
    advice: str


_ADVICE = {
    Flag.RANDOMISED: (
        "Put the model in eval mode. If it is random on purpose, attack the mean of the loss over many passes "
        "(expectation over transformation, Athalye et al. 2018): one sample's gradient is noise, and one lucky pass is "
        "no robustness."
    ),
    Flag.PROBABILITIES: (
        "Leave the softmax out of the model and return logits. Rounding turns confident probabilities into exact zeros "
        "and ones, whose gradient is gone."
    ),
    Flag.ZERO_GRADIENTS: (
        "Attack the margin or the difference of logits ratio (torchstone.robust.margin, dlr), which do not saturate. If "
        "gradients stay zero, look for rounding, thresholds or saturated activations, and use a smooth stand-in for their "
        "backward pass (BPDA, Athalye et al. 2018) or an attack without gradients."
    ),
    Flag.WEAKER_ATTACK_WINS: (
        "Do not report the stronger attack's figure. Give it more steps and restarts, another step size or loss (margin, "
        "dlr), and look for parts of the model that hide its gradient; report the union of all attacks."
    ),
    Flag.DYNAMIC: (
        "Standard attacks do not see through an optimisation inside the forward pass: differentiate through it, or write "
        "an attack for this model (Tramer et al. 2020). If the gradient is the model's output by design, as in energy "
        "models, this is harmless."
    ),
}


def randomised(passes: Sequence[Tensor], tolerance: float = 1e-4) -> Finding:
    r"""Whether outputs of the same inputs differ between passes.

    The largest :math:`\|\hat z_a - \hat z_b\|_2` over examples and pairs of passes, with
    :math:`\hat z = z / \|z\|_2`, or a change of any prediction.

    Args:
        passes: Outputs (N, C) of two or more passes over the same inputs.
        tolerance: Largest difference of normalised outputs that is not called random.

    Raises:
        SettingError: Fewer than two passes, or passes of different shapes.
    """
    if len(passes) < 2 or len({p.shape for p in passes}) > 1:
        raise SettingError(
            "randomised needs outputs of at least two passes over the same inputs",
            f"shapes {[tuple(p.shape) for p in passes]}",
            "Evaluate the model twice.",
        )
    rows = [flat(wide(p.detach())) for p in passes]
    units = [r / r.norm(dim=1, keepdim=True).clamp(min=1e-10) for r in rows]
    gaps = [(a - b).norm(dim=1) for i, a in enumerate(units) for b in units[i + 1 :]]
    largest = max((float(g.max()) for g in gaps if len(g)), default=0.0)
    changed = any(bool((r.argmax(dim=1) != rows[0].argmax(dim=1)).any()) for r in rows[1:])
    # NaN differs from itself: outputs that are not numbers are not repeatable either.
    raised = changed or not largest <= tolerance
    words = (
        f"Normalised outputs differ by up to {largest:.2g} between {len(passes)} passes over the same inputs"
    )
    words += ", and some predictions change." if changed else "."
    return _finding(Flag.RANDOMISED, raised, largest, tolerance, words)


def probabilities(outputs: Tensor, tolerance: float = 1e-5) -> Finding:
    """Whether outputs look like probabilities: in [0, 1], each row adding up to 1.

    Args:
        outputs: (N, C).
        tolerance: Rounding allowed; at least 4 units of the outputs' own precision are.
    """
    tolerance = max(tolerance, 4 * torch.finfo(outputs.dtype).eps)
    values = wide(outputs.detach())
    off = torch.cat([(values.sum(dim=1) - 1).abs(), (-values).flatten(), (values - 1).flatten()])
    # A single column of ones, or no rows at all, says nothing.
    alike = outputs.shape[1] > 1 and len(off) > 0 and bool((off <= tolerance).all())
    words = (
        f"All {len(outputs)} rows of outputs lie in [0, 1] and add up to 1."
        if alike
        else "Outputs are no probabilities: some lie outside [0, 1] or do not add up to 1."
    )
    return _finding(Flag.PROBABILITIES, alike, float(alike), 0.0, words)


def zero_gradients(gradients: Tensor, tolerance: float = 0.0) -> Finding:
    """Share of examples whose loss has a gradient of exactly zero, or none that is a number.

    Args:
        gradients: Input gradients (N, ...) of the attacked loss (`differentiate(goal, inputs).gradient`), best at a random
            point of the ball.
        tolerance: Share that is not called a sign.
    """
    rows = flat(gradients.detach())
    dead = (rows == 0).all(dim=1) | ~torch.isfinite(rows).all(dim=1)
    share = float(dead.double().mean()) if len(dead) else 0.0
    words = f"The gradient is exactly zero or not a number for {int(dead.sum())} of {len(dead)} inputs ({share:.1%})."
    return _finding(Flag.ZERO_GRADIENTS, share > tolerance, share, tolerance, words)


def weaker_attack_wins(
    stronger: Tensor,
    weaker: Tensor,
    names: tuple[str, str] = ("white-box", "black-box"),
    tolerance: float = 0.002,
) -> Finding:
    """Share of examples that only the weaker attack breaks.

    The pairs to compare: a white-box attack with an attack without gradients (`random_noise`), an iterated attack with one
    step (`pgd` with `fgsm`), a large radius with a small one.

    Args:
        stronger: (N,) success of the attack that should win.
        weaker: (N,) success of the attack that should not, on the same examples.
        names: What to call them.
        tolerance: Share that is not called a sign.

    Raises:
        SettingError: Different numbers of examples.
    """
    if stronger.shape != weaker.shape:
        raise SettingError(
            "weaker_attack_wins needs two attacks on the same examples",
            f"shapes {tuple(stronger.shape)} and {tuple(weaker.shape)}",
            "Attack the same batch twice.",
        )
    only = weaker & ~stronger
    share = float(only.double().mean()) if len(only) else 0.0
    words = f"The {names[1]} attack breaks {int(only.sum())} of {len(only)} examples ({share:.1%}) that the {names[0]} attack does not."
    return _finding(Flag.WEAKER_ATTACK_WINS, share > tolerance, share, tolerance, words)


def dynamic(forward: Callable[[Tensor], Any], inputs: Tensor) -> Finding:
    """Whether the model takes gradients while it predicts (test-time optimisation, purification).

    One forward pass is watched for calls of torch.autograd and torch.func's reverse mode.

    Args:
        forward: The model's prediction.
        inputs: (N, ...).
    """
    with _GradientCalls() as seen, torch.no_grad():
        forward(inputs)
    words = f"One prediction took {seen.count} gradients."
    return _finding(Flag.DYNAMIC, seen.count > 0, float(seen.count), 0.0, words)


class _GradientCalls(TorchFunctionMode):
    """Counts calls of autograd; they come here whichever name they were imported under."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward):
            self.count += 1
        return func(*args, **(kwargs or {}))


def _finding(flag: Flag, raised: bool, value: float, threshold: float, words: str) -> Finding:
    return Finding(flag, raised, value, threshold, words, _ADVICE[flag] if raised else "")
