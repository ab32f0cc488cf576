"""Every instrument on every network of the zoo."""

from __future__ import annotations

import pytest

from torchstone.instruments.catalogue import catalogue
from torchstone.testing.conformance import (
    check_batching,
    check_costs_nothing,
    check_instrument,
    check_precision,
    check_settings,
)
from torchstone.testing.zoo import Case, zoo

CASES = {case.name: case for case in zoo()}
SOME = ("frozen_noise", "regression", "language_model", "no_parameters", "encoder_decoder")


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
@pytest.mark.parametrize("identifier", list(catalogue()))
def test_conformance(identifier: str, case: Case) -> None:
    # A third of the pairs is measured twice, so that each instrument and each network is, with a third of the others.
    twice = (list(catalogue()).index(identifier) + list(CASES).index(case.name)) % 3 == 0
    reading = check_instrument(catalogue()[identifier], case, twice=twice)
    assert (reading is None) == bool(case.refused)


@pytest.mark.parametrize("identifier", list(catalogue()))
def test_settings_out_of_range_are_named(identifier: str) -> None:
    check_settings(catalogue()[identifier])


@pytest.mark.parametrize("name", ["tied_weights", "encoder_batch_first", "regression", "float64"])
@pytest.mark.parametrize("identifier", list(catalogue()))
def test_the_batch_size_does_not_matter(identifier: str, name: str) -> None:
    check_batching(catalogue()[identifier], CASES[name])


@pytest.mark.parametrize(
    "name", ["tied_weights", "encoder_sequence_first", "regression", "lstm", "batch_norm_in_train_mode"]
)
@pytest.mark.parametrize("identifier", list(catalogue()))
def test_the_precision_does_not_matter(identifier: str, name: str) -> None:
    check_precision(catalogue()[identifier], CASES[name])


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("identifier", list(catalogue()))
def test_questions_that_do_not_apply_cost_nothing(identifier: str, name: str) -> None:
    check_costs_nothing(catalogue()[identifier], CASES[name])
