"""The theory index: every entry resolves, and an entry that does not is found out."""

import json
from pathlib import Path

import pytest

from torchstone.atlas import Theme
from torchstone.atlas.catalogue import claims
from torchstone.atlas.index import broken_references, coverage, entries, parse, to_json
from torchstone.errors import FormatError, SettingError

ROOT = Path(__file__).parents[2]
ENTRY = """
[{id}]
title = "Something"
objects = ["torchstone.atlas.claim.Claim"]
claims = ["double_descent"]
tests = ["tests/atlas/test_index.py"]
page = "README.md"
"""


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_every_entry_resolves(entry):
    assert not broken_references(entry, ROOT)


def test_every_claim_is_in_the_index_under_its_rows():
    listed = {(entry.id, name) for entry in entries() for name in entry.claims}
    wanted = {(row, one.id) for one in claims().values() for row in one.rows}
    assert wanted <= listed, f"not in index.toml: {sorted(wanted - listed)}"


def test_pages_of_claims_name_them():
    """Who follows an entry to its page finds the claim there."""
    for entry in entries():
        text = (ROOT / entry.page.partition("#")[0]).read_text("utf-8")
        missing = [name for name in entry.claims if name not in text]
        assert not missing, f"{entry.page} does not mention {missing}"


def test_entries_are_in_the_order_of_themes():
    found = parse("".join(ENTRY.format(id=name) for name in ("D07", "X02", "D06", "X01", "R05")))
    assert [entry.id for entry in found] == ["R05", "X01", "X02", "D06", "D07"]
    assert [entry.theme for entry in found][-2:] == [Theme.ROBUSTNESS, Theme.SHIFT]


def test_coverage_counts_every_theme():
    found = coverage(parse(ENTRY.format(id="R05") + ENTRY.format(id="R06")))
    assert sum(one.total for one in found) == 278
    assert {one.theme: one.done for one in found if one.done} == {Theme.RISK: 2}
    assert sum(one.done for one in coverage()) == len(entries())


def test_json_is_a_list_of_entries_with_ids():
    data = json.loads(to_json())
    assert [item["id"] for item in data] == [entry.id for entry in entries()]
    assert set(data[0]) == {"id", "theme", "title", "objects", "claims", "tests", "page"}
    assert data[0]["theme"] == entries()[0].theme.value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "torchstone.atlas.claim.Claim",
            "torchstone.atlas.claim.Clam",
            "torchstone.atlas.claim.Clam cannot be imported",
        ),
        (
            "torchstone.atlas.claim.Claim",
            "torchstone.nowhere.Thing",
            "torchstone.nowhere.Thing cannot be imported",
        ),
        ("double_descent", "triple_descent", "claim triple_descent is not in the catalogue"),
        (
            "tests/atlas/test_index.py",
            "tests/atlas/test_nothing.py",
            "test tests/atlas/test_nothing.py does not exist",
        ),
        (
            "test_index.py",
            "test_index.py::test_absent",
            "test tests/atlas/test_index.py::test_absent does not exist",
        ),
        (
            "test_index.py",
            "claims/signal/test_weight_norm_gradient.py::TestWeight",  # TestWeightNormGradient is another class
            "test tests/atlas/claims/signal/test_weight_norm_gradient.py::TestWeight does not exist",
        ),
        ("README.md", "docs/nothing.md", "page docs/nothing.md does not exist"),
    ],
)
def test_what_an_entry_names_must_exist(old, new, message):
    [entry] = parse(ENTRY.format(id="R01").replace(old, new))
    assert broken_references(entry, ROOT) == (f"R01: {message}",)


def test_methods_tests_by_name_and_anchors_resolve():
    text = ENTRY.format(id="R01").replace("claim.Claim", "evidence.Evidence.close")
    text = text.replace("test_index.py", "test_index.py::test_coverage_counts_every_theme")
    [entry] = parse(text.replace("README.md", "README.md#anchor"))
    assert not broken_references(entry, ROOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'tests = ["tests/atlas/test_index.py"]',
            "tests = []",
            "R01 in the theory index needs tests; got an empty list",
        ),
        ('title = "Something"\n', "", "has the fields objects, claims, tests, title, page; got the fields"),
        ('title = "Something"', 'titel = "x"', "titel"),
        ('title = "Something"', "title = 3", "title of R01 in the theory index is a text; got 3"),
        ('title = "Something"', 'title = " "', "title of R01 in the theory index is a text"),
        ('claims = ["double_descent"]', 'claims = "double_descent"', "claims of R01 .* is a list of texts"),
        ("[R01]", "[R01", "must be TOML with every id once"),
        ("[R01]", "R01 = 3\n[R02]", "has the fields .*; got 3"),
    ],
)
def test_refuses_entries_that_are_not_whole(old, new, message):
    with pytest.raises(FormatError, match=message):
        parse(ENTRY.format(id="R01").replace(old, new))


def test_refuses_an_id_twice_and_ids_of_no_theme():
    with pytest.raises(FormatError, match="every id once"):
        parse(ENTRY.format(id="R01") * 2)
    with pytest.raises(SettingError, match="got 'R23'"):
        parse(ENTRY.format(id="R23"))


def test_entries_without_claims_are_fine():
    [entry] = parse(ENTRY.format(id="R01").replace('"double_descent"', ""))
    assert entry.claims == ()


def test_a_module_that_fails_to_import_is_not_taken_for_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_index.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    [entry] = parse(
        ENTRY.format(id="R01").replace("torchstone.atlas.claim.Claim", "broken_module_of_index.x")
    )
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        broken_references(entry, ROOT)
