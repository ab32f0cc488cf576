"""Discovery of claims: by folder and file name, one import a claim."""

import subprocess
import sys
from pathlib import Path

import pytest

from torchstone.atlas import Theme
from torchstone.atlas.catalogue import claim, claims, modules
from torchstone.errors import SettingError

SOURCE = """
from torchstone.atlas import Claim, Evidence, Theme
run = lambda scale, generator: Evidence.at_most("x", 0.0, 1.0)
CLAIM = Claim("{id}", Theme("{theme}"), "t", "s", "p", ("a",), "r", run, run, ("R01",))
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package of claims of its own, whose name no other test uses."""
    name = "claims_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    root = tmp_path / name
    root.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(theme: str, file: str, source: str | None = None, said: dict[str, str] | None = None) -> str:
        (root / theme).mkdir(exist_ok=True)
        text = SOURCE.format(**{"id": file, "theme": theme, **(said or {})}) if source is None else source
        (root / theme / f"{file}.py").write_text(text)
        return name

    return add


def test_finds_files_in_theme_folders_in_the_order_of_themes(package):
    package("signal", "beta")
    package("signal", "alpha")
    package("risk", "_private", source="raise RuntimeError")
    name = package("risk", "zeta")
    assert list(modules(name)) == ["zeta", "alpha", "beta"]
    assert [found.theme for found in claims(name).values()] == [Theme.RISK, Theme.SIGNAL, Theme.SIGNAL]


def test_one_claim_can_be_had_while_another_file_is_broken(package):
    package("risk", "broken", source="raise RuntimeError('broken')")
    name = package("risk", "sound")
    assert claim("sound", name).id == "sound"
    with pytest.raises(RuntimeError, match="broken"):
        claims(name)


@pytest.mark.parametrize(
    ("source", "said", "got"),
    [
        ("x = 1", {}, "got None"),
        ("CLAIM = 3", {}, "got 3"),
        (None, {"id": "other"}, "got risk/other"),
        (None, {"theme": "signal"}, "got signal/slug"),
    ],
)
def test_a_file_without_its_claim_is_an_error(package, source, said, got):
    name = package("risk", "slug", source, said)
    with pytest.raises(
        SettingError, match=f"must define CLAIM, a Claim with id 'slug' and theme 'risk'; {got}"
    ):
        claim("slug", name)


def test_two_files_of_one_name_are_an_error(package):
    package("risk", "same")
    name = package("signal", "same")
    with pytest.raises(SettingError, match=r"a name of its own; .*signal.same does not; got .*risk.same too"):
        modules(name)


def test_a_folder_that_is_no_theme_is_an_error(package):
    name = package("riks", "slug")
    with pytest.raises(SettingError, match=r"folders of .* are themes: risk, .*; got riks. Move the claims"):
        modules(name)


def test_an_unknown_claim_suggests_close_names():
    with pytest.raises(SettingError, match=r"got 'double_decent'. Did you mean double_descent"):
        claim("double_decent")
    with pytest.raises(SettingError, match=r"got 'qqqq'. Run `torchstone atlas list`."):
        claim("qqqq")


def test_every_claim_of_the_atlas_loads_and_names_the_topics_of_its_theme():
    found = claims()
    assert len(found) >= 8
    for identifier, one in found.items():
        assert one.id == identifier
        assert one.theme in {Theme.of(row) for row in one.rows}


def test_every_claim_has_a_test_file():
    """The mirrored file runs the claim; conformance and gates live there."""
    root = Path(__file__).parent / "claims"
    missing = [f"{c.theme}/test_{c.id}.py" for c in claims().values() if not (root / c.theme / f"test_{c.id}.py").exists()]  # fmt: skip
    assert not missing


def test_listing_and_finding_import_no_other_claim_and_nothing_heavy():
    code = (
        "import sys\n"
        "from torchstone.atlas.catalogue import claim, modules\n"
        "import torchstone.atlas.run, torchstone.atlas.words, torchstone.atlas.index\n"
        "modules(); claim('softmax_gradient')\n"
        "loaded = [m for m in sys.modules if m.startswith('torchstone.atlas.claims.') and m.count('.') == 4]\n"
        "assert loaded == ['torchstone.atlas.claims.representation.softmax_gradient'], loaded\n"
        "heavy = {'sklearn', 'scipy', 'plotly', 'rich', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
