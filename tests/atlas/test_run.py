"""Running a claim: seeds, scales and errors."""

import json

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.run import ClaimResult, generator_for, run
from torchstone.errors import SettingError
from torchstone.serialise import from_plain, json_schema, to_plain


def test_result_says_what_was_run():
    result = run("softmax_gradient", "quick", seed=3)
    assert (result.claim, result.scale, result.seed) == ("softmax_gradient", Scale.QUICK, 3)
    assert result.holds is result.evidence.holds is True
    assert result.seconds > 0


def test_the_seed_matters():
    first, second = (run("minimum_norm_limit", seed=seed).evidence for seed in (0, 1))
    assert first != second


def test_streams_differ_between_claims_and_seeds():
    draws = {
        float(torch.rand((), generator=generator_for(name, seed))) for name in ("a", "b") for seed in (0, 1)
    }
    assert len(draws) == 4


def test_unknown_claim_and_scale():
    with pytest.raises(SettingError, match="Did you mean stability_limit"):
        run("stability_limits")
    with pytest.raises(SettingError, match=r"scale is one of quick, full; got 'huge'. Pass one of them."):
        run("stability_limit", "huge")


def test_result_fits_its_schema():
    import jsonschema

    result = run("square_by_depth")
    data = json.loads(json.dumps(to_plain(result), allow_nan=False))
    jsonschema.Draft202012Validator(json_schema(ClaimResult)).validate(data)
    assert from_plain(ClaimResult, data) == result
