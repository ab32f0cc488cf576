"""Every instrument that trains again, on networks that make that awkward."""

from __future__ import annotations

import pytest

from torchstone.instruments.catalogue import catalogue
from torchstone.reading import CostClass
from torchstone.testing.conformance import check_instrument
from torchstone.testing.zoo import zoo

CASES = {case.name: case for case in zoo()}
RETRAINING = [name for name, kind in catalogue().items() if kind.META.cost is CostClass.RETRAINING]
# One of each kind: what cannot be stacked or mapped, what draws random numbers, what has statistics, no classes, ties.
AWKWARD = (
    "batch_norm_in_train_mode",
    "live_dropout",
    "tied_weights",
    "frozen_parameters",
    "lstm",
    "attention",
    "dict_batches",
    "single_logit",
    "bfloat16",
    "regression",
    "segmentation",
    "language_model",
    "padded_batches",
    "autoencoder",
    "two_examples",
    "huge_inputs",
    "rare_class",
    "sequence_classifier",
)


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("identifier", RETRAINING)
def test_conformance(identifier: str, name: str) -> None:
    check_instrument(catalogue()[identifier], CASES[name], retrainable=True)
