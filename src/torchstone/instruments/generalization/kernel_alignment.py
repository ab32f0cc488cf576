"""Which part of the labels does gradient descent learn first, and did training change that?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.details import Axis, Curve, Line, Scalar, Scalars, Spectrum, Table, numbers, thin
from torchstone.errors import NotApplicableError, NumericalError
from torchstone.instruments.settings import require_count
from torchstone.kernels import (
    AlignmentEstimate,
    condition_number,
    effective_rank,
    linear_cka_interval,
    unbiased_hsic,
)
from torchstone.operators import TangentKernel, ntk
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation

SOURCE = (
    "Jacot, Gabriel & Hongler 2018, section 5 (eigen-directions are learned one by one); Cortes, Mohri & Rostamizadeh 2012, "
    "definition 4 (centred alignment); Fort et al. 2020, section 3 (kernel velocity)"
)
LEAST = 5


@dataclass(frozen=True)
class Spectral:
    """A tangent kernel of n examples, taken apart.

    Args:
        values: Eigenvalues over n, largest first.
        energy: Share of the targets' variation along each eigenvector, in that order.
        features: Rows whose inner products are the kernel, (n, n).
        alignment: Unbiased centred alignment with the targets.
    """

    values: Tensor
    energy: Tensor
    features: Tensor
    alignment: AlignmentEstimate

    @classmethod
    def of(cls, kernel: Float[Tensor, "n n"], targets: Float[Tensor, "n c"]) -> Spectral:
        """Take a kernel apart; the targets are centred.

        Raises:
            NotApplicableError: It does not tell examples apart.
        """
        values, vectors = torch.linalg.eigh(kernel.double().cpu())
        values, vectors = values.flip(0), vectors.flip(1)
        rounding = torch.finfo(kernel.dtype).eps * float(values[0])
        values = torch.where(values > rounding, values, torch.zeros_like(values))
        features = vectors * values.sqrt()
        try:
            alignment = linear_cka_interval(features, targets)
        except NumericalError:
            raise NotApplicableError("the tangent kernel does not tell these examples apart") from None
        energy = (vectors.T @ targets).square().sum(1) / targets.square().sum()
        return cls(values / len(kernel), energy, features, alignment)


@dataclass(frozen=True)
class KernelAlignment:
    r"""Centred alignment of the empirical tangent kernel with the targets, and the targets along its eigenvectors.

    A = HSIC(Theta, Y Y^T) / sqrt(HSIC(Theta, Theta) HSIC(Y Y^T, Y Y^T)) from unbiased estimates, with
    Theta[n, m] = sum_c <df_c(x_n), df_c(x_m)> and Y one-hot labels or real targets. While the kernel stays as it is,
    gradient flow on squared loss shrinks the error along eigenvector i like exp(-lambda_i t): the share of Y in the leading
    eigenvectors is what is learned first. The kernel's change since initialisation is 1 - CKA of the two.

    Cost: C + 3 passes over `examples` examples, twice where the initial weights are known, and an eigendecomposition of
    that size. Bias: of order 1/n, as of every ratio.
    Source: Cristianini et al. 2002; Cortes, Mohri & Rostamizadeh 2012; Jacot, Gabriel & Hongler 2018, section 5.
    """

    META: ClassVar[Meta] = Meta(
        id="kernel_alignment",
        question=Question.GENERALIZATION,
        title="Tangent-kernel alignment",
        asks="Which part of the labels does gradient descent learn first?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.INDEPENDENT_EXAMPLES),
        unit="alignment",
        source=SOURCE,
    )
    examples: int = 256
    """Most training examples the kernel is taken of."""
    top: int = 10
    """Leading eigenvectors whose share of the targets is named."""
    max_outputs: int = 32
    """Most outputs an example whose kernels are added exactly; with more, as many random combinations are."""

    def __post_init__(self) -> None:
        require_count(self, "examples", LEAST, 4096)
        require_count(self, "top", 1, 4096)
        require_count(self, "max_outputs", 1, 4096)

    def measure(self, bench: Workbench) -> Reading:
        """Take the kernel apart, now and at initialisation."""
        rows = bench.sample("train", self.examples, self.META.id)
        targets = _targets(bench, rows)
        kernel = self._kernel(bench, bench.specimen, rows, "now")
        now = Spectral.of(kernel.values, targets)
        started, notes = at_initialisation(bench.specimen)
        start = None
        if started is not None:
            try:
                start = Spectral.of(self._kernel(bench, started, rows, "initial").values, targets)
            except NotApplicableError as answer:
                notes = (f"No comparison with the initial weights: {answer.reason}.",)
        change = linear_cka_interval(start.features, now.features) if start is not None else None
        verdict = judge(now.alignment.low)
        estimate = now.alignment
        return Reading.of(
            self.META,
            value=estimate.value,
            uncertainty=Uncertainty(
                min(estimate.low, estimate.value), max(estimate.high, estimate.value), "examples", "jackknife",
                standard_error=estimate.standard_error,
            ),
            verdict=verdict,
            headline=_headline(now, start, change, self.top),
            explanation=(
                "The tangent kernel says how much a gradient step on one example changes the output of another. Its centred "
                "alignment with the targets is 1 where examples help exactly those with like targets, and 0 where the two "
                "have nothing to do with each other. The interval covers the draw of examples, not retraining."
            ),
            remedies=_remedies(verdict),
            details=(
                _scalars(bench, rows, targets, now, start, change, self.top),
                _energy_curve(now, start),
                _spectrum(now),
                _layers(kernel, targets),
            ),
            notes=(*self._notes(bench, rows, kernel), *notes),
        )  # fmt: skip

    def _kernel(self, bench: Workbench, specimen: Specimen, rows: Tensor, when: str) -> TangentKernel:
        """Sum over the outputs' kernels, with each parameter's share."""

        def make() -> TangentKernel:
            return ntk(
                specimen,
                ("train", rows),
                outputs="trace",
                directions=self._directions(bench, specimen, rows),
                per_layer=True,
                memory_bytes=bench.plan.memory_bytes // 2,
            )

        return bench.memo(("tangent kernel", when, self.examples, self.max_outputs), make)

    def _directions(self, bench: Workbench, specimen: Specimen, rows: Tensor) -> Tensor | None:
        with specimen.measuring(), torch.no_grad():
            outputs = specimen.forward(next(specimen.batches("train", rows[:1])))[0].numel()
        if outputs <= self.max_outputs:
            return None
        generator = bench.generator(f"{self.META.id} outputs")
        signs = torch.randint(0, 2, (self.max_outputs, outputs), generator=generator) * 2.0 - 1.0
        return signs / self.max_outputs**0.5

    def _notes(self, bench: Workbench, rows: Tensor, kernel: TangentKernel) -> tuple[str, ...]:
        notes = []
        if len(rows) < bench.specimen.size("train"):
            notes.append(f"Kernel of {len(rows):,} training examples, drawn with the seed.")
        if self._directions(bench, bench.specimen, rows) is not None:
            notes.append(
                f"The sum over outputs is estimated from {self.max_outputs} random combinations of them."
            )
        if kernel.formed:
            notes.append(f"Gradients were formed for {', '.join(list(kernel.formed)[:5])}.")
        return tuple(notes)


def judge(low: float) -> Verdict:
    """Attention where the alignment is not above 0 beyond sampling error; otherwise a number to compare networks by."""
    threshold = "alignment above 0 beyond sampling error"
    source = "Cortes, Mohri & Rostamizadeh 2012, section 4 (alignment promises a good predictor in the kernel's space)"
    if low > 0:
        return Verdict(Level.INFORMATIVE, "the kernel and the targets agree beyond chance", threshold, source)
    return Verdict(Level.ATTENTION, "the kernel's similarities say nothing of the targets", threshold, source)


def _targets(bench: Workbench, rows: Tensor) -> Float[Tensor, "n c"]:
    """One-hot labels or real targets, centred.

    Raises:
        NotApplicableError: There are none, or they do not vary.
    """
    if len(rows) < LEAST:
        raise NotApplicableError(f"needs at least {LEAST} training examples")
    if not bench.lacks(Need.LABELS):
        labels = bench.labels("train")[rows]
        targets = torch.nn.functional.one_hot(labels).double()
        if int(targets.sum(0).max()) == 1:
            raise NotApplicableError("needs examples that share a label")
    else:
        targets = _real_targets(bench)[rows]
    targets = targets - targets.mean(0)
    if float(targets.norm()) <= 1e-12 * max(1.0, float(targets.abs().max())):
        raise NotApplicableError("needs targets that vary between examples")
    return targets


def _real_targets(bench: Workbench) -> Tensor:
    objective = bench.specimen.objective

    def of_batch(batch: Any) -> Tensor:
        target = objective.target(batch)
        if target is None or not target.is_floating_point():
            raise NotApplicableError("needs a class label or a real target per example")
        return target.reshape(len(target), -1).double()

    return bench.memo(("real targets",), lambda: bench.specimen.map_over(of_batch, "train"))


def _headline(now: Spectral, start: Spectral | None, change: AlignmentEstimate | None, top: int) -> str:
    count = len(now.values)
    used = min(top, count)
    text = f"The tangent kernel's alignment with the targets is {now.alignment.value:.2f}"
    text += f" ({start.alignment.value:.2f} at initialisation)" if start is not None else ""
    text += (
        f"; its {used} fastest directions of {count} hold {float(now.energy[:used].sum()):.0%} of the targets"
    )
    if change is not None:
        text += f", and training changed it by {1 - change.value:.2f} (0: lazy, 1: another kernel)"
    return text + "."


def _scalars(
    bench: Workbench,
    rows: Tensor,
    targets: Tensor,
    now: Spectral,
    start: Spectral | None,
    change: AlignmentEstimate | None,
    top: int,
) -> Scalars:
    items = [_named("alignment with the targets", now.alignment)]
    if start is not None:
        items.append(_named("alignment at initialisation", start.alignment))
    plain = _of_inputs(bench, rows, targets)
    if plain is not None:
        items.append(_named("alignment of the inputs' own similarities", plain))
    if change is not None:
        items.append(
            Scalar(
                "change since initialisation, 1 - CKA",
                _changed(change.value),
                "",
                _changed(change.high),
                _changed(change.low),
            )
        )
    items += [
        Scalar(
            f"targets in the {min(top, len(now.values))} leading directions",
            100 * float(now.energy[:top].sum()),
            "%",
        ),
        Scalar("condition number", condition_number(now.values)),
        Scalar("effective rank", effective_rank(now.values), "directions"),
    ]
    caption = "Intervals are jackknife ones over examples. Inputs alone show what the network adds."
    return Scalars("The kernel in numbers", tuple(items), caption=caption)


def _changed(alignment: float) -> float:
    """What is missing to the same kernel, without the rounding errors of one that stayed as it was."""
    return round(1 - alignment, 9)


def _named(name: str, estimate: AlignmentEstimate) -> Scalar:
    return Scalar(name, estimate.value, "", estimate.low, estimate.high)


def _of_inputs(bench: Workbench, rows: Tensor, targets: Tensor) -> AlignmentEstimate | None:
    """Alignment of the linear kernel of the inputs, where they are continuous and vary."""
    if bench.lacks(Need.FLOAT_INPUTS):
        return None
    try:
        return linear_cka_interval(bench.inputs("train")[rows], targets)
    except (NotApplicableError, NumericalError):
        return None


def _energy_curve(now: Spectral, start: Spectral | None) -> Curve:
    count = len(now.values)
    kept = thin(count, 400)
    x = numbers(i + 1 for i in kept)
    lines = [Line("now", x, numbers(100 * now.energy.cumsum(0)[kept]))]
    if start is not None:
        lines.append(Line("at initialisation", x, numbers(100 * start.energy.cumsum(0)[kept])))
    lines.append(Line("targets without a pattern", x, numbers(100 * (i + 1) / count for i in kept)))
    return Curve(
        "What is learned first",
        Axis("eigen-directions of the kernel, fastest first", log=True),
        Axis("share of the targets in them", "%"),
        tuple(lines),
        caption="While the kernel stays as it is, the error along a direction shrinks at the rate of its eigenvalue. A line "
        "that rises early means targets that are learned quickly; along the lowest line they can only be memorised.",
    )


def _spectrum(now: Spectral) -> Spectrum:
    positive = now.values[now.values > 1e-14 * now.values[0]]
    return Spectrum(
        "Spectrum of the tangent kernel",
        numbers(positive[thin(len(positive), 400)]),
        unit="1 / (learning rate x step)",
        log=True,
        caption="Eigenvalues of the kernel over the number of examples: rates of learning under gradient flow on the mean "
        "squared loss. Their ratio is that of the times the directions take.",
    )


def _layers(kernel: TangentKernel, targets: Tensor) -> Table:
    label = targets @ targets.T
    total = float(kernel.values.double().trace())
    rows = []
    for name, share in list(kernel.by_layer().items())[:60]:
        gram = share.double().cpu()
        rows.append((name, 100 * float(gram.trace()) / total if total > 0 else None, _alignment(gram, label)))
    return Table(
        "Layers",
        ("layer", "share of the kernel (%)", "alignment with the targets"),
        tuple(rows),
        caption="The kernel is the sum of the layers'. A layer with most of it takes most of each step.",
    )


def _alignment(gram: Tensor, label: Tensor) -> float | None:
    """Unbiased centred alignment, where the layer tells examples apart."""
    own, other = unbiased_hsic(gram, gram), unbiased_hsic(label, label)
    rounding = 1e-12 * float(gram.square().mean())
    if own <= rounding or other <= 0:
        return None
    return unbiased_hsic(gram, label) / own**0.5 / other**0.5


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Look for wrong or shuffled labels first: aligned targets are what a kernel can learn from."),
        Remedy(
            "Start from pretrained features, or choose an architecture whose similarities fit the task.",
            "torchstone.operators.ntk",
            "tangent_kernel_limit",
        ),
    )


INSTRUMENT = KernelAlignment
