import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from torchstone.details import Axis, Images, Line, Picture, Scatter, Table
from torchstone.details import Curve as CurveDetail
from torchstone.examination import Examination
from torchstone.reading import Level, Question, Remedy, Verdict
from torchstone.report.escaping import clean
from torchstone.report.html import MOST_BYTES, anchor, to_html, to_notebook
from torchstone.report.plotly_bundle import plotly_bundle

VOID = {"meta", "link", "img", "br", "wbr", "use", "path", "input", "hr"}


class Page(HTMLParser):
    """What a page consists of; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def within(self, tag):
        return "".join(data for around, data in self.texts if around == tag)

    def said(self):
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("script", "style")).split())


@pytest.fixture(scope="module")
def rich_page(rich):
    return Page(to_html(rich))


@pytest.fixture(scope="module")
def hostile_page(hostile):
    return Page(to_html(hostile))


@pytest.fixture(params=["rich_page", "hostile_page"])
def page(request):
    return request.getfixturevalue(request.param)


def test_the_structure_is_sound(page):
    assert page.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert attributes["href"][0] == "#"
        assert attributes["href"][1:] in ids
    assert all(attributes["href"][1:] in ids for attributes in page.all("use"))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert name not in attributes or attributes[name] in ids


def test_headings_skip_no_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_plot_and_picture_has_a_text_alternative(page):
    plots = [attributes for tag, attributes in page.elements if attributes.get("class") == "plot"]
    assert plots
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in plots)
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert sum(tag == "details" and a.get("class") == "data" for tag, a in page.elements) == len(plots)


def test_nothing_runs_but_the_scripts_of_the_policy(page):
    scripts = [attributes for attributes in page.all("script") if "type" not in attributes]
    assert scripts == [{}, {}]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert {a.get("type") for a in page.all("script")} == {
        None,
        "application/json",
        "application/octet-stream",
    }
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == "data:"
    assert "unsafe" not in rules["script-src"]
    assert "http" not in policy


def test_the_policy_admits_the_scripts_that_are_there(rich):
    text = to_html(rich)
    inline = re.findall(r"<script>(.*?)</script>", text, re.S)
    packed = re.search(r'<script type="application/octet-stream" id="plotly">(.*?)</script>', text, re.S)
    assert packed
    plotly = gzip.decompress(base64.b64decode(packed[1])).decode("utf-8")
    assert plotly.lstrip().startswith("/**\n* plotly.js")
    for script in (*inline, plotly):
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        assert f"&#39;sha256-{digest}&#39;" in text


def test_nothing_points_outside(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    style = page.within("style")
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_stays_text(hostile_page, hostile_texts):
    said = hostile_page.said()
    for text in hostile_texts:
        assert " ".join(clean(text).split()) in said
    assert "javascript:" not in json.dumps([a for _, a in hostile_page.elements if "href" in a])
    assert "49" not in hostile_page.within("h3")  # a template in a title is not run


def test_figures_parse_and_hold_no_markup(hostile):
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', to_html(hostile), re.S)
    assert len(blocks) > 20
    assert all("<" not in block and json.loads(block)["data"] for block in blocks)


def test_first_screen_says_what_why_and_what_to_do(rich_page):
    said = rich_page.said()
    for words in (
        "digits", "MLP, 5 layers", "50,890 parameters", "classification, 10 classes", "standard examination",
        "1,437 training examples and 360 test examples", "21 November 2026, 05:49 UTC", "measured in 1 min 23 s",
        "Where its error comes from", "0.080 (0.055 to 0.113)", "label noise", "0.044 (0.029 to 0.060)",
        "What to change first", "Lower the learning rate to 0.08 or less", "1.097 ± 0.007",
        "The training loader shuffles",
    ):  # fmt: skip
        assert words in said
    sections = (
        "Where its error comes from",
        "What to change first",
        "Noticed before",
        "Where does its error come from?",
    )
    order = [said.index(words) for words in sections]
    assert order == sorted(order)


def test_changes_are_ordered_by_severity_and_lead_to_their_readings(rich):
    text = to_html(rich)
    listed = text[text.index('class="change"') : text.index('class="noticed"')]
    links = re.findall(r'href="#(r-[a-z_]+)"', listed)
    assert links == ["r-stability_edge", "r-calibration", "r-margins"]


def test_a_reading_tells_everything_it_knows(rich_page):
    said = rich_page.said()
    for words in (
        "Poor: Past the edge by 10%.", "below 1 Cohen et al. 2021, section 2", "Bound that always holds",
        "torchstone. optim. warmup", "steps = 40", "which = (largest, smallest)", "Measured on 1,437 of 1,437",
        "420 ms, 2 forward and 1 backward passes over the training set, 3 MiB at its peak",
        "needs continuous inputs", "out of memory: 3.2 GiB asked for", "stability_edge version 1, seed 0",
        "torchstone examine digits --plan standard --seed 0", "torch 2.13.0", "optimizer SGD, lr 0.1", "schema 1",
    ):  # fmt: skip
        assert words in said


def test_what_to_change_first_starts_opened(rich):
    opened = re.findall(r'<details class="reading [a-z]+" id="r-([a-z_]+)" open>', to_html(rich))
    assert sorted(opened) == ["calibration", "margins", "stability_edge"]


def test_every_question_with_readings_has_a_section(rich_page, rich):
    sections = [
        attributes["id"] for attributes in rich_page.all("section") if attributes.get("class") == "question"
    ]
    assert sections == [question.value for question in rich.by_question()]


def test_an_empty_examination_is_a_page(examined):
    page = Page(to_html(examined(findings=(), complete=False)))
    said = page.said()
    assert "No instrument ran" in said
    assert "Interrupted." in said
    assert not any(a.get("id") == "plotly" for a in page.all("script"))  # nothing to plot, nothing to carry


def test_an_examination_without_problems_says_so(examined, read):
    assert "Nothing stands out" in to_html(examined(read()))


def test_a_budget_without_parts_or_measurement_is_graceful(examined, read):
    lone = to_html(examined(read("error_budget", headline="No parts were told apart.")))
    assert "No parts were told apart." in lone
    assert 'class="bar"' not in lone
    failed = read("error_budget", Level.ERROR, value=None, headline="Not measured: boom")
    assert "Not measured: boom" in to_html(examined(failed))
    assert "Where its error comes from" not in to_html(examined(read()))


def test_details_with_nothing_in_them_are_drawn(examined, read, empties):
    said = Page(to_html(examined(read(details=empties)))).said()
    assert "Nothing to draw." in said
    assert "No numbers." in said
    assert "No images." in said


@pytest.mark.parametrize("level", list(Level))
def test_every_verdict_has_icon_and_word(examined, read, level):
    value = None if level in (Level.NOT_APPLICABLE, Level.ERROR) else 1.0
    text = to_html(examined(read(level=level, value=value, verdict=Verdict(level, "because"))))
    badge = re.search(
        rf'<span class="badge {level.value}"><svg[^>]*><use href="#i-{level.value}"/></svg>([^<]+)<', text
    )
    assert badge
    assert badge[1].strip()


def test_more_than_five_changes_are_folded(examined, read):
    many = [
        read(
            f"poor_{i}", Level.POOR, verdict=Verdict(Level.POOR, severity=1 - i / 10), remedies=(Remedy("x"),)
        )
        for i in range(8)
    ]
    text = to_html(examined(*many))
    assert "<summary>3 more</summary>" in text
    assert '<ol start="6">' in text


def test_long_tables_and_rows_of_images_say_what_is_left_out(examined, read):
    table = Table("", ("a",), tuple((i,) for i in range(500)))
    images = Images("", tuple(Picture(str(i), 1, 1, (0.5,)) for i in range(60)))
    said = Page(to_html(examined(read(details=(table, images))))).said()
    assert "200 of 500 rows" in said
    assert "48 of 60 images" in said


def test_the_page_is_a_function_of_the_json(rich, hostile):
    assert to_html(rich) == to_html(rich)
    assert to_html(Examination.from_json(rich.to_json())) == to_html(rich)
    assert rich.to_html() == to_html(rich)


def test_pages_are_small(rich):
    assert len(to_html(rich).encode()) < 2_500_000


def test_pages_stay_small_whatever_was_measured(examined, read):
    xs = tuple(0.123456789 * i for i in range(2000))
    lines = tuple(Line(str(k), xs, tuple(x * (k + 0.37) for x in xs)) for k in range(6))
    curve = CurveDetail("", Axis("x"), Axis("y"), lines)
    points = Scatter(
        "", Axis("x"), Axis("y"), xs, xs, texts=tuple(f"example number {i}" for i in range(2000))
    )
    noise = tuple((i * 7919 % 1009) / 1009 for i in range(3 * 200 * 200))
    images = Images("", tuple(Picture("noise", 200, 200, noise) for _ in range(12)))
    heavy = examined(
        *(read(f"r{i}", question=list(Question)[i % 6], details=(curve, points, images)) for i in range(15))
    )
    text = to_html(heavy)
    assert len(text.encode("utf-8")) <= MOST_BYTES
    assert "were thinned further" in text


def test_a_notebook_gets_the_page_in_a_sandboxed_frame(rich):
    (frame,) = Page(to_notebook(rich)).all("iframe")
    assert frame["sandbox"] == "allow-scripts"
    assert frame["srcdoc"] == to_html(rich)
    assert rich._repr_html_() == to_notebook(rich)


def test_anchors_are_fragments(read):
    assert anchor(read("a b/ü")) == "r-a-b--"


def test_plotly_is_packed_once_and_reproducibly():
    first = plotly_bundle()
    assert plotly_bundle() is first
    assert len(first.packed) < 2_400_000


def test_drawing_a_page_does_not_import_plotlys_figures(rich, tmp_path):
    (tmp_path / "examination.json").write_text(rich.to_json(), encoding="utf-8")
    code = (
        "import sys; from torchstone.examination import Examination;"
        f"Examination.load({str(tmp_path / 'examination.json')!r}).to_html();"
        "assert 'plotly.graph_objects' not in sys.modules, 'graph_objects'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unfinished_dates_and_unknown_plans_are_shown_as_they_are(examined):
    said = Page(to_html(examined(started="yesterday"))).said()
    assert "yesterday" in said
    naive = replace(examined(), started="2026-01-02T03:04:05")
    assert "2 January 2026, 03:04 UTC" in to_html(naive)
