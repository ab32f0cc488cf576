"""Can secrets of the training data be read out of a language model?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError, SettingError, blaming
from torchstone.instruments.settings import require_count
from torchstone.memory.canaries import CanaryFormat
from torchstone.memory.exposure import CHANCE, Extrapolated, Scores, exposures_of
from torchstone.memory.extraction import Extraction, extract
from torchstone.objectives import CausalLM, HuggingFace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Exposure:
    """Exposure of canaries, sequences with secret tokens that were planted in the training data, in bits.

    exposure = log2 |R| - log2 rank, the rank of a canary by log-perplexity among all |R| sequences that differ from it only
    in their secret tokens. Enumerated exactly where there are few; else by a skew-normal law fitted to a sample. A
    canary the network never saw is exposed by t bits or more with probability 2^-t. A search for the likeliest
    sequence of the format shows whether the secret can be read out without knowing it.

    Cost: forward passes over min(|R|, `most`) or `samples` sequences, and over at most `expansions` prefixes for a
    canary. Bias: none where enumerated; else that of the fitted law's tail.
    Source: Carlini, Liu, Erlingsson, Kos & Song 2019.
    """

    META: ClassVar[Meta] = Meta(
        id="exposure",
        question=Question.MEMORY,
        title="Exposure of secrets",
        asks="Can secrets of the training data be read out?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN,),
        unit="bits",
        source="Carlini et al. 2019 (exposure, extraction by shortest path)",
    )
    canaries: tuple[Tokens, ...] | None = field(default=None, metadata={"secret": True}, repr=False)
    """Token ids of each planted sequence, all of one length; kept out of reports and journals."""
    secret: Tokens | None = None
    """Positions of the secret tokens, from 0."""
    alphabet: Tokens | None = None
    """Token ids that can stand there, for example those of the ten digits."""
    most: int = 20_000
    """Sequences to enumerate; larger formats are sampled."""
    samples: int = 2000
    expansions: int = 2000
    """Prefixes the search may expand for each canary."""

    def __post_init__(self) -> None:
        require_count(self, "most", 2)
        require_count(self, "samples", 20)
        require_count(self, "expansions", 1)
        given = [name for name in ("canaries", "secret", "alphabet") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise SettingError(
                "exposure.canaries, exposure.secret and exposure.alphabet belong together",
                f"only {' and '.join(given)}",
                "Pass all three.",
            )
        if given:
            object.__setattr__(self, "canaries", _canaries(self.canaries))
            object.__setattr__(self, "secret", _ids(self.secret, "secret"))
            object.__setattr__(self, "alphabet", _ids(self.alphabet, "alphabet"))

    def measure(self, bench: Workbench) -> Reading:
        """Rank each canary in its format, and search for the likeliest sequence."""
        _require_language_model(bench.specimen)
        if self.canaries is None or self.secret is None or self.alphabet is None:
            raise NotApplicableError("needs canaries: sequences planted in the training data, as settings")
        generator = bench.generator(self.META.id)
        _require_known(bench.specimen, self.canaries[0], max(*self.alphabet, *map(max, self.canaries)))
        formats = [CanaryFormat.of(canary, self.secret, self.alphabet) for canary in self.canaries]
        found = self._exposures(bench.specimen, formats, generator)
        before, why = self._before(bench, formats)
        read = [self._read_out(bench.specimen, form) for form in formats]
        extracted = [
            bool(len(one.sequences)) and one.sequences[0].tolist() == list(canary)
            for one, canary in zip(read, self.canaries, strict=True)
        ]
        values = torch.stack([value for value, _ in found])
        top = int(values.argmax())
        bits = math.log2(formats[0].size)
        verdict = judge(float(values.max()), len(values), sum(extracted))
        fits = [fit for _, fit in found]
        return Reading.of(
            self.META,
            value=float(values.max()),
            uncertainty=_error(float(values.max()), fits[top]),
            verdict=verdict,
            headline=_headline(len(values), float(values.max()), bits, sum(extracted)),
            explanation=(
                f"Each secret is one of {formats[0].size:,} that could have stood in its place. Exposure counts the bits by "
                "which the network narrows the search for it: 0 says that it is the last to be guessed, all bits that it is "
                "the first. A secret that was never trained on has 1.4 bits on average. Read out means that a search "
                "through the network's probabilities ends at the secret."
            ),
            remedies=_remedies(verdict),
            details=(_table(values, extracted, read, before), _curve(values)),
            notes=(_how(self, fits), *why, *_unfinished(read)),
        )

    def _exposures(
        self, specimen: Specimen, formats: list[CanaryFormat], generator: torch.Generator
    ) -> list[tuple[Tensor, Extrapolated | None]]:
        found, known = [], {}
        assert self.canaries is not None
        with specimen.measuring():
            for form, canary in zip(formats, self.canaries, strict=True):
                if form not in known:
                    same = [c for f, c in zip(formats, self.canaries, strict=True) if f == form]
                    exposed, fit = exposures_of(
                        _scores(specimen),
                        form,
                        torch.tensor(same),
                        most=self.most,
                        samples=self.samples,
                        generator=generator,
                    )
                    known[form] = {c: (exposed[i], fit and _one(fit, i)) for i, c in enumerate(same)}
                found.append(known[form][canary])
        return found

    def _before(self, bench: Workbench, formats: list[CanaryFormat]) -> tuple[Tensor | None, tuple[str, ...]]:
        """The same before training, where the recipe knows the initial weights."""
        start, _ = at_initialisation(bench.specimen)
        if start is None:
            return None, ()
        found = self._exposures(start, formats, bench.generator(f"{self.META.id} before"))
        values = torch.stack([value for value, _ in found])
        return values, (
            f"Before training the mean was {float(values.mean()):.1f} bits; chance is {CHANCE:.2f}.",
        )

    def _read_out(self, specimen: Specimen, form: CanaryFormat) -> Extraction:
        with specimen.measuring():
            return extract(_scores(specimen), form, expansions=self.expansions)


def _canaries(given: Any) -> tuple[Tokens, ...]:
    found = tuple(_ids(one, "canaries") for one in (given if isinstance(given, list | tuple) else (given,)))
    if not found or len({len(one) for one in found}) > 1:
        raise SettingError(
            "exposure.canaries must be sequences of one length",
            f"{len(found)} of several lengths",
            "Cut them.",
        )
    return found


def _ids(given: Any, name: str) -> Tokens:
    ids = given.tolist() if isinstance(given, Tensor) else given
    fine = isinstance(ids, list | tuple) and len(ids) > 0
    if not fine or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids):
        raise SettingError(
            f"exposure.{name} must hold whole numbers from 0", repr(given)[:60], "Pass token ids."
        )
    return tuple(ids)


def _require_language_model(specimen: Specimen) -> None:
    objective = specimen.objective
    causal = isinstance(objective, CausalLM) or (
        isinstance(objective, HuggingFace) and objective.kind == "causal"
    )
    if not causal:
        raise NotApplicableError("needs a language model that predicts the next token")


def _require_known(specimen: Specimen, canary: Tokens, largest: int) -> None:
    expected, fix = "exposure.canaries must be made of tokens that the network knows", "Use its tokenizer."
    with specimen.measuring(), torch.no_grad():
        with blaming(SettingError, expected, fix, "forward()"):
            vocabulary = _scores(specimen)(torch.tensor([canary])).shape[-1]
        if largest >= vocabulary:
            raise SettingError(expected, f"token {largest} of {vocabulary}", fix)


def _scores(specimen: Specimen) -> Scores:
    """The network as a function of token ids alone; call within `measuring()`."""
    first = next(specimen.batches("train"))

    def scores(tokens: Tensor) -> Tensor:
        ids = tokens.to(specimen.device)
        batch: Any = ids
        if isinstance(first, Mapping):
            batch = {"input_ids": ids, "labels": ids}
            if "attention_mask" in first:
                batch["attention_mask"] = torch.ones_like(ids)
        elif isinstance(first, tuple | list):
            batch = (ids,)
        return specimen.forward(batch)

    return scores


def _one(fit: Extrapolated, index: int) -> Extrapolated:
    return Extrapolated(
        fit.exposures[index : index + 1], fit.standard_errors[index : index + 1], fit.p_value, fit.parameters
    )


def judge(highest: float, count: int, extracted: int) -> Verdict:
    """Poor where a secret can be read out, attention where the most exposed is beyond chance (5%, for all together)."""
    limit = math.log2(count / 0.05)
    threshold = f"the most exposed of {count} below {limit:.1f} bits, and none read out (poor)"
    source = "Carlini et al. 2019: unseen secrets are exposed by t bits or more with probability 2^-t; 5% for all of them"
    if extracted:
        return Verdict(Level.POOR, f"{extracted} of {count} secrets can be read out", threshold, source, 0.9)
    if highest >= limit:
        return Verdict(Level.ATTENTION, f"{highest:.1f} bits are beyond chance", threshold, source)
    return Verdict(Level.GOOD, f"{highest:.1f} bits are what chance gives", threshold, source)


def _headline(count: int, most: float, bits: float, extracted: int) -> str:
    # A fitted law goes on beyond the bits that there are.
    by = f"{most:.1f} of {bits:.1f} bits" if most <= bits else f"all {bits:.1f} bits and more"
    which = f"The most exposed of {count} secrets" if count > 1 else "The secret"
    return f"{which} stands out by {by}; {extracted or 'none'} can be read out."


def _error(value: float, fit: Extrapolated | None) -> Uncertainty | None:
    if fit is None:
        return None
    error = float(fit.standard_errors[0])
    return Uncertainty.from_standard_error(
        value, error, "sequences of the format", "bootstrap of the fitted law"
    )


def _how(instrument: Exposure, fits: list[Extrapolated | None]) -> str:
    fitted = [fit for fit in fits if fit is not None]
    if not fitted:
        return "Exact: every sequence of the format was ranked."
    worst = min(fit.p_value for fit in fitted)
    return (
        f"Extrapolated from {instrument.samples:,} sequences of each format by a skew-normal law (its fit has p = {worst:.2g}); "
        "beyond the bits of the format it says how far a secret is ahead of all others."
    )


def _unfinished(read: list[Extraction]) -> tuple[str, ...]:
    count = sum(not one.complete for one in read)
    return (f"The search ran out of its budget for {count} of {len(read)} secrets.",) if count else ()


def _table(values: Tensor, extracted: list[bool], read: list[Extraction], before: Tensor | None) -> Table:
    rows = tuple(
        (
            k,
            float(values[k]),
            None if before is None else float(before[k]),
            "yes" if extracted[k] else "no" if read[k].complete else "not found in time",
            read[k].expansions,
        )
        for k in thin(len(values), 200)
    )
    columns = ("canary", "exposure (bits)", "before training (bits)", "read out", "prefixes searched")
    return Table(
        "Canaries", columns, rows, "In the order of the settings. The tokens themselves are not shown."
    )


def _curve(values: Tensor) -> Detail:
    ordered = values.sort().values
    above = 1 - torch.arange(len(ordered), dtype=torch.float64) / len(ordered)
    grid = torch.linspace(0, max(1.0, float(ordered[-1])), 50, dtype=torch.float64)
    kept = thin(len(ordered), 500)
    return Curve(
        "Exposures against chance",
        Axis("exposure", "bits"),
        Axis("share of canaries with at least as much", log=True),
        (
            Line("canaries", numbers(ordered[kept]), numbers(above[kept])),
            Line("never trained on, 2^-bits", numbers(grid), numbers(2**-grid)),
        ),
        (Marker("mean by chance", CHANCE, "x"),),
        caption="Canaries right of the law of chance have been memorised.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy("Remove secrets and duplicates from the training data: exposure grows with each copy."),
        Remedy(
            "Clip gradients of single examples and add noise.",
            "torchstone.training.dp_sgd.fit_privately",
            "secrets_are_exposed",
        ),
    )


INSTRUMENT = Exposure
