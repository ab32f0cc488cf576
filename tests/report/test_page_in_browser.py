"""The page in a real browser: what it loads, what its keys do, how it looks, whether it can be read."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from torchstone.report.html import to_html, to_notebook

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("TORCHSTONE_REQUIRE_BROWSER"), reason="needs chromium"
    ),
]

# Contrast of each visible text with what lies behind it; the texts of plots have tests of their own.
UNREADABLE = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let checked = 0;
  while (walker.nextNode()) {
    const around = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || around.closest("svg, script, .skip, .sr, .minus")) continue;
    if (!around.checkVisibility() || !around.getClientRects().length) continue;
    checked += 1;
    const [one, two] = [rgb(getComputedStyle(around).color), behind(around)].map(luminance);
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) bad.push(`${around.tagName}.${around.className} ${ratio.toFixed(2)} ${walker.currentNode.data}`);
  }
  return { bad, checked };
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, rich, hostile):
    folder = tmp_path_factory.mktemp("pages")
    notebook = f"<!DOCTYPE html><meta charset=utf-8><title>notebook</title><body>{to_notebook(rich)}"
    for name, text in (("rich", to_html(rich)), ("hostile", to_html(hostile)), ("notebook", notebook)):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


class Visit:
    """A page with all it asked for, said and let happen."""

    def __init__(self, browser: Browser, file: Path, **settings):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        self.page: Page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(file.as_uri())

    def draw_all(self):
        """Expand everything and scroll past each plot."""
        self.page.click("#expand")
        plots = self.page.locator(".plot")
        for i in range(plots.count()):
            plots.nth(i).scroll_into_view_if_needed()
        expect(self.page.locator(".plot:not([data-drawn])")).to_have_count(0, timeout=60_000)
        return plots

    @property
    def foreign(self):
        return [url for url in self.requests if not url.startswith("data:")][1:]


@pytest.fixture
def visit(browser, files):
    visits = []

    def start(name="rich", **settings) -> Visit:
        visits.append(Visit(browser, files / f"{name}.html", **settings))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()


@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_plots_appear_without_a_complaint_or_a_request(visit, name):
    seen = visit(name)
    plots = seen.draw_all()
    assert plots.count() > 5
    assert seen.page.locator(".plot .main-svg").count() >= plots.count()
    assert seen.page.locator(".plot .trace, .plot .hm, .plot .contour, .plot image").count() > 5
    assert seen.complaints == []
    assert seen.foreign == []


def test_the_policy_stops_requests_and_foreign_scripts(visit):
    page = visit().page
    assert page.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'stopped')") == "stopped"
    violations = page.evaluate(
        """() => new Promise((done) => {
          const seen = [];
          addEventListener("securitypolicyviolation", (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) done(seen.sort());
          });
          const script = document.createElement("script");
          script.textContent = "window.intruder = true";
          const image = new Image();
          image.src = "https://example.invalid/t.png";
          const style = document.createElement("link");
          Object.assign(style, { rel: "stylesheet", href: "https://example.invalid/s.css" });
          document.head.append(script, style, image);
        })"""
    )
    assert violations == ["img-src", "script-src-elem", "style-src-elem"]
    assert page.evaluate("window.intruder") is None


def test_the_first_screen_does_not_wait_for_plotly(visit):
    page = visit().page
    expect(page.get_by_role("heading", level=1, name="digits")).to_be_in_viewport()
    expect(page.get_by_role("heading", name="Where its error comes from")).to_be_in_viewport()
    expect(page.locator(".budget .bar")).to_be_in_viewport()
    expect(page.get_by_role("heading", name="What to change first")).to_be_in_viewport()
    expect(page.locator(".change li").first).to_be_in_viewport(ratio=0.9)
    assert page.evaluate("window.Plotly === undefined")


def test_plots_are_drawn_when_their_section_opens(visit):
    page = visit().page
    reading = page.locator("#r-gradient_flow")
    assert reading.locator(".plot[data-drawn]").count() == 0
    reading.locator("summary").first.click()
    reading.locator(".plot").first.scroll_into_view_if_needed()
    expect(reading.locator(".plot[data-drawn] .main-svg").first).to_be_visible(timeout=60_000)


def test_everything_is_within_reach_of_the_keyboard(visit):
    page = visit().page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#r-error_budget > summary')"):
            break
    summary = page.locator("#r-error_budget > summary")
    expect(summary).to_be_focused()
    assert summary.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    assert summary.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)") >= 2
    body = page.locator("#r-error_budget .body")
    expect(body).to_be_hidden()
    page.keyboard.press("Enter")
    expect(body).to_be_visible()
    page.keyboard.press("Space")
    expect(body).to_be_hidden()


def test_links_open_and_focus_their_reading(visit):
    page = visit().page
    page.get_by_role("link", name="How this was measured").click()
    expect(page.locator("#r-error_budget .body")).to_be_visible()
    expect(page.locator("#r-error_budget > summary")).to_be_focused()
    expect(page.locator("#r-error_budget > summary")).to_be_in_viewport()


def test_an_address_with_a_fragment_opens_its_reading(browser, files):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{(files / 'rich.html').as_uri()}#r-dead_units")
    expect(page.locator("#r-dead_units .body")).to_be_visible()
    context.close()


def test_expand_and_collapse_all(visit):
    page = visit().page
    readings = page.locator("details.reading")
    button = page.locator("#expand")
    button.click()
    assert page.locator("details.reading[open]").count() == readings.count()
    expect(button).to_have_text("Collapse all")
    button.click()
    assert page.locator("details.reading[open]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_every_text_is_readable(visit, scheme, name):
    page = visit(name, color_scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    found = page.evaluate(UNREADABLE)
    assert found["checked"] > 200
    assert found["bad"] == []


def test_plots_follow_the_theme(visit):
    seen = visit(color_scheme="light")
    plot = seen.draw_all().first
    colours = lambda: set(
        plot.evaluate("e => [...e.querySelectorAll('.legendtext, .xtitle')].map((t) => t.style.fill)")
    )
    background = lambda: seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, day = colours(), background()
    seen.page.click("#theme")
    expect(seen.page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    assert background() != day
    assert light
    assert colours().isdisjoint(light)
    seen.page.click("#theme")
    assert (colours(), background()) == (light, day)
    assert seen.complaints == []


def test_the_chosen_theme_is_kept(visit):
    page = visit(color_scheme="light").page
    page.click("#theme")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_preferred_theme_applies(visit):
    page = visit(color_scheme="dark").page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 25)"


@pytest.mark.parametrize(
    ("name", "width"), [("rich", 390), ("rich", 768), ("hostile", 320), ("hostile", 390)]
)
def test_narrow_screens_do_not_scroll_sideways(visit, name, width):
    seen = visit(name, viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True)
    page = seen.page
    if name == "rich":
        seen.draw_all()
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """(width) => [...document.querySelectorAll('main *')].filter((e) =>
          e.getBoundingClientRect().right > width + 1 && e.checkVisibility() && !e.closest('.scroll, pre, svg, .sr, .main-svg')
        ).map((e) => e.outerHTML.slice(0, 120))""",
        width,
    )
    assert wide == []


def test_print_shows_everything_in_light_colours(visit):
    seen = visit(color_scheme="dark")
    page = seen.page
    page.emulate_media(media="print")
    expect(page.locator(".plot:not([data-drawn])")).to_have_count(0, timeout=60_000)
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    fill = "getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    assert page.evaluate(fill) == "rgb(93, 98, 107)"
    expect(page.locator(".tools")).to_be_hidden()
    page.emulate_media(media="screen")
    expect(page.locator("details:not([open])").first).to_be_attached()
    assert page.evaluate(fill) == "rgb(165, 170, 179)"


def test_a_printer_that_does_not_wait_finds_its_plots(visit, tmp_path):
    page = visit().page
    # Unpacked, as it is a moment after loading, but not started.
    page.wait_for_timeout(1000)
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
          window.onPaper = [".plot", ".plot[data-drawn='640'] .main-svg", "details:not([open])"]
            .map((which) => document.querySelectorAll(which).length);
        })"""
    )
    page.pdf(path=tmp_path / "page.pdf")
    plots, drawn, closed = page.evaluate("window.onPaper")
    assert plots > 5
    assert drawn >= plots
    assert closed == 0
    assert (tmp_path / "page.pdf").stat().st_size > 100_000


def test_pictures_are_what_they_were(visit, rich):
    page = visit().page
    page.click("#expand")
    pixels = page.evaluate(
        """() => { const image = document.querySelector(".pictures img");
          const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
          const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
          return [image.naturalWidth, ...context.getImageData(0, 0, 8, 8).data]; }"""
    )
    picture = next(d for d in rich.readings["memorisation"].details if hasattr(d, "pictures")).pictures[0]
    assert pixels[0] == 8
    assert pixels[1::4] == pytest.approx([255 * value for value in picture.pixels], abs=1)


def test_hostile_labels_are_text_in_plots(visit, hostile_texts):
    seen = visit("hostile")
    seen.draw_all()
    assert seen.page.locator(".plot a, .plot script, .plot img, img[src='x']").count() == 0
    drawn = seen.page.evaluate(
        "[...document.querySelectorAll('.plot .legendtext')].map((t) => t.textContent)"
    )
    assert "<script>alert(1)</script>" in drawn
    assert any("$\\alpha$" in text for text in drawn)
    assert "</script><img src=x onerror=alert(1)>" in drawn


def test_without_plotly_the_numbers_remain(browser, files, tmp_path):
    broken = (files / "rich.html").read_text(encoding="utf-8")
    start = broken.index('id="plotly">') + len('id="plotly">')
    (tmp_path / "rich.html").write_text(broken[:start] + "AAAA" + broken[start + 4 :], encoding="utf-8")
    seen = Visit(browser, tmp_path / "rich.html")
    seen.page.locator("#r-stability_edge .plot").first.scroll_into_view_if_needed()
    expect(seen.page.locator("#r-stability_edge details.data").first).to_have_attribute(
        "open", "", timeout=60_000
    )
    seen.context.close()


def test_without_scripts_the_page_can_be_read(visit):
    page = visit(java_script_enabled=False).page
    page.locator("#r-error_budget > summary").click()
    expect(page.locator("#r-error_budget .body")).to_be_visible()
    expect(page.locator(".plot").first).to_be_hidden()
    expect(page.locator("#theme")).to_be_hidden()


def test_a_notebook_shows_the_page_in_its_frame(visit):
    seen = visit("notebook")
    frame = seen.page.frame_locator("iframe")
    expect(frame.get_by_role("heading", level=1)).to_have_text("digits")
    frame.get_by_role("link", name="How this was measured").click()
    expect(frame.locator("#r-error_budget .body")).to_be_visible()
    frame.locator("#r-stability_edge .plot").first.scroll_into_view_if_needed()
    expect(frame.locator("#r-stability_edge .plot[data-drawn]").first).to_be_visible(timeout=60_000)
    frame.locator("#theme").click()
    assert seen.foreign == [url for url in seen.foreign if url.startswith("about:")]
    assert seen.complaints == []
