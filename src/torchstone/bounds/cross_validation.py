"""Nested cross-validation: choose settings inside, estimate the error of choosing-and-fitting outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


@dataclass(frozen=True)
class NestedScores:
    """What nested cross-validation says, beside what choosing by the same folds would have claimed.

    Args:
        scores: Score on each outer fold of the procedure "choose settings by inner folds, then fit", (K,).
        chosen: Settings chosen in each outer fold.
        plain: Best inner score over all settings on the whole data: optimistic, the same folds choose and judge.
        train_share: Examples fitted on in an outer fold, as a multiple of those held out.
    """

    scores: tuple[float, ...]
    chosen: tuple[Mapping[str, Any], ...]
    plain: float
    train_share: float

    @property
    def mean(self) -> float:
        """Mean score over outer folds: unbiased for the procedure on samples of this reduced size."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def standard_error(self) -> float:
        r"""Spread corrected for overlapping training sets, :math:`s \sqrt{1/K + n_{test}/n_{train}}`.

        A convention: no unbiased estimate of the variance exists (Bengio & Grandvalet 2004).

        Source: Nadeau & Bengio 2003, section 3.
        """
        spread = float(torch.tensor(self.scores, dtype=torch.float64).std())
        return spread * math.sqrt(1 / len(self.scores) + 1 / self.train_share)

    @property
    def optimism(self) -> float:
        """How much better the choosing folds look than fresh ones."""
        return self.plain - self.mean


def nested_cross_validation(
    estimator: Any,
    settings: Mapping[str, Sequence[Any]],
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    outer: int = 5,
    inner: int = 5,
    scoring: str | None = None,
) -> NestedScores:
    """Nested cross-validation of a scikit-learn estimator over a grid of settings.

    Cost: `outer` x (`inner` x settings + 1) fits, and `inner` x settings once more for the comparison.

    Args:
        estimator: With `fit`, `get_params` and a score, such as `convex_baseline(...)`; give it a `random_state` where it draws.
        settings: Values to try for each parameter's name.
        x: Inputs (n, ...), flattened to (n, d).
        y: Targets (n,).
        generator: Of the folds; stratified by class for classifiers.
        outer: Outer folds K.
        inner: Inner folds.
        scoring: Name of a scikit-learn score; None for the estimator's own (accuracy, R^2).

    Returns:
        Scores and choices.

    Raises:
        SettingError: Fewer than two folds, more folds than examples, or shapes that do not match.

    Source: Stone 1974; Varma & Simon 2006; Cawley & Talbot 2010.
    """
    from sklearn.base import is_classifier
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_validate

    check_count("outer", outer, least=2)
    check_count("inner", inner, least=2)
    if len(x) != len(y) or len(x) < outer * 2:
        raise SettingError(
            "nested_cross_validation needs as many targets as inputs, and two examples an outer fold",
            f"{len(x)} inputs, {len(y)} targets, {outer} folds",
            "Use fewer folds.",
        )
    inputs = x.detach().cpu().double().flatten(1).numpy()
    targets = y.detach().cpu().numpy()
    kind = StratifiedKFold if is_classifier(estimator) else KFold
    seeds = torch.randint(2**31 - 1, (2,), generator=generator).tolist()
    outer_folds, inner_folds = (
        kind(folds, shuffle=True, random_state=seed)
        for folds, seed in zip((outer, inner), seeds, strict=True)
    )
    strictly: Any = "raise"  # a fit that fails is an error, not a score of NaN
    search = GridSearchCV(estimator, dict(settings), cv=inner_folds, scoring=scoring, error_score=strictly)
    found = cross_validate(
        search, inputs, targets, cv=outer_folds, return_estimator=True, error_score=strictly, scoring=scoring
    )
    plain = search.fit(inputs, targets)
    return NestedScores(
        tuple(float(score) for score in found["test_score"]),
        tuple(dict(one.best_params_) for one in found["estimator"]),
        float(plain.best_score_),
        train_share=float(outer - 1),
    )
