"""How small a change of the input breaks the network?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone import batches, robust
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench

# Radii in standard deviations of the inputs. 0.125 is CIFAR-10's usual 8/255 in that unit.
RADII = (0.01, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0)
REFERENCE = 0.125


@dataclass(frozen=True)
class AdversarialCurve:
    r"""Accuracy under the strongest perturbation that FGSM and projected gradient descent find, by radius and norm.

    Radii are in standard deviations s of the inputs: ||delta||_inf <= eps s, and ||delta||_2 <= eps s sqrt(d), so that
    both norms allow the same size per coordinate. Perturbed inputs stay within the range of the data. The curve is
    monotone: an example broken at one radius is broken at every larger one. The five misuse flags of AutoAttack say
    when the numbers flatter the network.

    Cost: about `steps` x `restarts` gradients per radius and norm over `examples` examples. Bias: an upper bound of the
    robust accuracy: a stronger attack may find more.
    Source: Goodfellow, Shlens & Szegedy 2015 (FGSM); Madry et al. 2018, section 2.1 (PGD); Croce & Hein 2020 (flags).
    """

    META: ClassVar[Meta] = Meta(
        id="adversarial_curve",
        question=Question.ROBUSTNESS,
        title="Adversarial curve",
        asks="How small a change of the input breaks it?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.FLOAT_INPUTS, Need.INDEPENDENT_EXAMPLES),
        unit="share of examples still right",
        source="Goodfellow, Shlens & Szegedy 2015; Madry et al. 2018; Croce & Hein 2020",
    )
    examples: int = 128
    steps: int = 10
    restarts: int = 2

    def __post_init__(self) -> None:
        require_count(self, "examples", 1)
        require_count(self, "steps", 1, 10_000)
        require_count(self, "restarts", 1, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Attack a sample of held-out examples (training examples where there are none)."""
        target = _Target.of(bench, self.examples, self.META.id)
        curves = {}
        for norm in ("linf", "l2"):
            curves[norm] = _attack(bench, target, norm, self.steps, self.restarts)
        findings = _flags(bench, target, curves["linf"])
        clean = float((~curves["linf"].clean_wrong).double().mean())
        at = RADII.index(REFERENCE)
        broken = curves["linf"].strong[at]
        count, held = len(broken), int((~broken).sum())
        interval = clopper_pearson(held, count)
        verdict = judge(held / count, clean, [finding.flag.value for finding in findings if finding.raised])
        return Reading.of(
            self.META,
            value=held / count,
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=(
                f"Changing every input by at most {REFERENCE:g} standard deviations takes the accuracy from {clean:.1%} to "
                f"{held / count:.1%}."
            ),
            explanation=(
                f"{count} {target.split} examples, attacked with FGSM and with PGD ({self.steps} steps, {self.restarts} "
                "restarts, one from the input itself), at rising radii. Radii in standard deviations of the inputs; "
                "perturbed inputs stay in the data's range."
            ),
            remedies=_remedies(verdict),
            details=(*(_curve(norm, one, clean) for norm, one in curves.items()), _flag_table(findings)),
            notes=(
                f"Attacked {count} {target.split} examples; one standard deviation is {target.scale:.3g}.",
            ),
        )


@dataclass(frozen=True)
class _Target:
    """The examples under attack, and the network as a function of their inputs."""

    split: str
    inputs: Tensor
    labels: Tensor
    logits: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor]
    scale: float
    bounds: tuple[float, float]

    @classmethod
    def of(cls, bench: Workbench, most: int, name: str) -> _Target:
        specimen = bench.specimen
        split = "test" if specimen.has("test") else "train"
        chosen = bench.sample(split, most, name)
        parts = [
            batches.move(batch, specimen.device, specimen.dtype)
            for batch in specimen.split(split).take(chosen)
        ]
        inputs = [specimen.objective.inputs(part) for part in parts]
        labels = [specimen.objective.labels(part) for part in parts]
        rows = [len(one) for one in inputs if one is not None]

        def outputs(x: Tensor) -> Tensor:
            found, start = [], 0
            for part, size in zip(parts, rows, strict=True):
                found.append(specimen.forward(specimen.objective.with_inputs(part, x[start : start + size])))
                start += size
            return torch.cat(found)

        def logits(x: Tensor) -> Tensor:
            scores = specimen.objective.scores(outputs(x))
            assert scores is not None  # the instrument needs scores
            return scores

        everything = bench.inputs("train")
        spread = float((everything.double() - everything.double().mean(0)).square().mean().sqrt())
        stacked = torch.cat([one for one in inputs if one is not None])
        low = min(float(everything.min()), float(stacked.min()))
        high = max(float(everything.max()), float(stacked.max()))
        targets = torch.cat([one for one in labels if one is not None])
        return cls(split, stacked, targets, logits, outputs, spread or 1.0, (low, high))


@dataclass(frozen=True)
class _Broken:
    """Which examples each attack broke, (K, N) over the radii."""

    strong: Tensor
    one_step: Tensor
    noise: Tensor
    clean_wrong: Tensor


def judge(accuracy: float, clean: float, flags: list[str]) -> Verdict:
    """Poor where half of the clean accuracy is lost at the reference radius, attention at a tenth, or with a flag."""
    threshold = (
        f"robust accuracy at {REFERENCE:g} standard deviations at least 90% of the clean one (poor: 50%)"
    )
    source = (
        "Madry et al. 2018: 8/255 on CIFAR-10 is about 0.125 standard deviations; the shares are a convention"
    )
    share = accuracy / clean if clean > 0 else 1.0
    if share < 0.5:
        return Verdict(Level.POOR, f"{1 - share:.0%} of the right answers are lost", threshold, source, 0.6)
    if flags:
        return Verdict(Level.ATTENTION, f"the attack may mislead: {flags[0]}", threshold, source)
    if share < 0.9:
        return Verdict(Level.ATTENTION, f"{1 - share:.0%} of the right answers are lost", threshold, source)
    return Verdict(Level.GOOD, f"{1 - share:.0%} of the right answers are lost", threshold, source)


def _attack(bench: Workbench, target: _Target, norm: Any, steps: int, restarts: int) -> _Broken:
    goal = robust.misclassify(target.logits, target.labels)
    size = target.inputs[0].numel() ** 0.5 if norm == "l2" else 1.0
    radii = [radius * target.scale * size for radius in RADII]
    generator = bench.generator(f"adversarial_curve {norm}")
    attack: Any = functools.partial(robust.pgd, steps=steps, restarts=restarts, generator=generator)
    curve = robust.robust_curve(
        goal, target.inputs, radii, norm=norm, bounds=target.bounds, attack=attack, until_broken=True
    )
    single, noise, used = [], [], curve.gradient_evaluations
    for radius in radii:
        quick = robust.fgsm(goal, target.inputs, radius, norm=norm, bounds=target.bounds)
        drawn = robust.random_noise(
            goal,
            target.inputs,
            radius,
            generator=generator,
            norm=norm,
            bounds=target.bounds,
            draws=5,
            until_broken=True,
        )
        single.append(quick.success)
        noise.append(drawn.success)
        used += quick.gradient_evaluations
    bench.specimen.passes.backward += used * len(target.inputs)
    one_step, by_noise = torch.stack(single).cummax(0).values, torch.stack(noise).cummax(0).values
    with torch.no_grad():
        wrong = target.logits(target.inputs).argmax(1) != target.labels
    # Whatever any attack broke is broken: the curve is the union.
    return _Broken(
        (curve.broken | one_step | by_noise | wrong).cpu(), one_step.cpu(), by_noise.cpu(), wrong.cpu()
    )


def _flags(bench: Workbench, target: _Target, curve: _Broken) -> list[robust.Finding]:
    goal = robust.misclassify(target.logits, target.labels)
    with torch.no_grad():
        twice = [target.outputs(target.inputs) for _ in range(2)]
    gradient = robust.differentiate(goal, target.inputs).gradient
    bench.specimen.passes.backward += len(target.inputs)
    at = RADII.index(REFERENCE)
    return [
        robust.randomised(twice),
        robust.probabilities(twice[0].flatten(1)),
        robust.zero_gradients(gradient if gradient is not None else torch.zeros_like(target.inputs)),
        robust.weaker_attack_wins(curve.strong[at], curve.noise[at], ("PGD", "random noise")),
        robust.dynamic(target.outputs, target.inputs),
    ]


def _curve(norm: str, broken: _Broken, clean: float) -> Curve:
    symbol = {"linf": "l-infinity", "l2": "l2"}[norm]
    count = broken.strong.shape[1]
    lines = []
    for name, held in (
        ("strongest (PGD and the others)", ~broken.strong),
        ("FGSM, one step", ~broken.one_step),
        ("random noise", ~broken.noise),
    ):
        accuracy = held.double().mean(1)
        ends = (
            [clopper_pearson(int(row.sum()), count) for row in held] if name.startswith("strongest") else []
        )
        lines.append(
            Line(
                name,
                (0.0, *RADII),
                (clean, *numbers(accuracy)),
                (clean, *(end.low for end in ends)) if ends else (),
                (clean, *(end.high for end in ends)) if ends else (),
            )
        )
    return Curve(
        f"Accuracy under {symbol} perturbations",
        Axis("radius", "standard deviations of the inputs" + (" x sqrt(d)" if norm == "l2" else "")),
        Axis("accuracy"),
        tuple(lines),
        (Marker("reference", REFERENCE, "x"),),
        caption="The lowest line is what counts. Random noise above it shows how far worst-case and average differ.",
    )


def _flag_table(findings: list[robust.Finding]) -> Table:
    rows = tuple(
        (
            finding.flag.name.lower().replace("_", " "),
            "yes" if finding.raised else "no",
            finding.words,
            finding.advice,
        )
        for finding in findings
    )
    return Table(
        "Can the attack be trusted?",
        ("flag", "raised", "what was measured", "what to do"),
        rows,
        "The five misuse flags of AutoAttack (Croce & Hein 2020). A raised flag means that the curve may flatter.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "Train on adversarial examples (a few PGD steps inside the training loop).",
            "torchstone.robust.pgd",
        ),
        Remedy("If inputs are not chosen by an adversary, look at the noise curve instead."),
    )


INSTRUMENT = AdversarialCurve
