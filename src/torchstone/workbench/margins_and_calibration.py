"""Quantiles of the margin and the calibration of a classifier, to stand beside what other measurements say."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.bounds.margin import margins
from torchstone.bounds.mean import mean_interval
from torchstone.details import Scalar, Scalars
from torchstone.errors import NotApplicableError
from torchstone.reading import Need
from torchstone.workbench.workbench import Workbench

_QUANTILES = (0.05, 0.25, 0.5, 0.75)


def margins_and_calibration(bench: Workbench) -> tuple[Scalars, ...]:
    """Quantiles of the margin, and how far the confidence is from the accuracy; empty where there are no class scores.

    Margins are in units of the training scores' spread, the root mean square of the centred scores.

    Cost: one forward pass over training and test data, shared with others.
    Source: Jiang, Krishnan, Mobahi & Bengio 2019 (margin distributions); Guo et al. 2017 (calibration).
    """
    if bench.lacks(Need.LABELS) or bench.lacks(Need.SCORES):
        return ()
    items: list[Scalar] = []
    scale = 0.0
    for split in ("train", "test"):
        if not bench.specimen.has(split):
            continue
        try:
            scores, labels = bench.scores(split), bench.labels(split)
        except NotApplicableError:
            return ()
        if scores.ndim != 2 or scores.shape[1] < 2 or int(labels.max()) >= scores.shape[1]:
            return ()
        scale = scale or float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt())
        if scale > 0:
            found = margins(scores, labels) / scale
            for level in _QUANTILES:
                cut = float(torch.quantile(found, level))
                items.append(Scalar(f"{level:.0%} quantile of the margin, {split}", cut, "score spreads"))
        items.append(_overconfidence(scores, labels, split))
    caption = "The distribution of margins and the calibration stand beside the weights: neither sees what the other does."
    return (Scalars("Margins and calibration", tuple(items), caption=caption),)


def _overconfidence(scores: Tensor, labels: Tensor, split: str) -> Scalar:
    confidence, guess = scores.softmax(1).max(1)
    beyond = confidence - (guess == labels).double()
    name = f"mean confidence beyond accuracy, {split}"
    if len(beyond) < 2:
        return Scalar(name, float(beyond.mean()))
    interval = mean_interval(beyond)
    return Scalar(name, float(beyond.mean()), "", interval.low, interval.high)
