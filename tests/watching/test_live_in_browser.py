"""The live page in a real browser, beside a real run that goes on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright
from torch import nn

from torchstone.report.run_page import run_to_html
from torchstone.watching import watch
from torchstone.watching.live import LiveServer
from torchstone.watching.loggers import JsonLines
from torchstone.watching.record import Record
from torchstone.watching.report import run_page

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("TORCHSTONE_REQUIRE_BROWSER"), reason="needs chromium"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        yield running
        running.close()


class Visit:
    """A live page with all it asked for and said."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.server = LiveServer(folder)
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()
        self.context = browser.new_context(viewport={"width": 1200, "height": 1000})
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.goto(self.server.url)

    def leave(self) -> None:
        self.context.close()
        self.server.close()
        self.thread.join(timeout=10)


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    opened = Visit(browser, tmp_path / "run")
    yield opened
    opened.leave()


def points(page: Page) -> int:
    return int(page.locator("#progress .plot").first.get_attribute("data-points") or 0)


def test_the_curve_grows_while_a_run_goes_on(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    expect(page.locator("h1")).to_have_text("Waiting for a run")
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 2)
    x = torch.randn(32, 4, generator=g)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with watch(
        model, optimizer, (x, y), every=1, quantities="cheap", folder=tmp_path / "run", show=False
    ) as watcher:
        for step in range(1, 31):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            if step % 10 == 0:
                plot = page.locator(f'#progress .plot[data-points="{step}"]')
                expect(plot).to_have_count(1, timeout=30_000)
                seen.append(points(page))
                expect(page.locator("#pulse")).to_have_class("running")
    assert seen == [10, 20, 30]
    expect(page.locator("h1")).to_have_text("run")
    expect(page.locator("#pulse")).to_have_class("", timeout=30_000)  # it has ended
    assert page.evaluate("document.querySelector('#progress .plot').data[0].y.length") == 30
    assert "Training loss" in page.locator("#tiles").inner_text()
    assert all(url.startswith((visit.server.url, "data:")) for url in visit.requests)
    assert visit.complaints == []


def test_alerts_are_on_top_and_hostile_names_stay_text(
    visit: Visit, tmp_path: Path, make_log, nasty: str
) -> None:
    log = make_log(name=nasty, layers=12)
    logger = JsonLines(tmp_path / "run")
    logger.start(log.header)
    for record in log.records:
        logger.record(record)
    page = visit.page
    expect(page.locator("#no-notices")).to_be_visible(timeout=30_000)
    for alert in log.alerts:
        logger.alert(alert)
    first = page.locator("#notice-list li").first
    expect(first).to_contain_text("Vanishing", timeout=30_000)
    expect(first).to_contain_text(nasty)
    expect(page.locator("#no-notices")).to_be_hidden()
    box = first.bounding_box()
    assert box is not None
    assert box["y"] < 400
    page.locator("#steps .surface .plot").scroll_into_view_if_needed()
    expect(page.locator("#steps .surface .plot[data-drawn]")).to_have_count(1, timeout=30_000)
    assert page.locator("img").count() == 0
    assert visit.complaints == []


def test_the_theme_is_swapped_in_drawn_plots(visit: Visit, tmp_path: Path, make_log, write_log) -> None:
    write_log(make_log(), tmp_path / "run")
    page = visit.page
    expect(page.locator("#progress .plot[data-drawn]").first).to_be_visible(timeout=30_000)
    colour = "document.querySelector('#progress .plot').data[0].line.color"
    light = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != light


def test_the_report_of_a_run_draws_every_plot_offline(
    browser: Browser, tmp_path: Path, make_log, nasty: str
) -> None:
    file = tmp_path / "run.html"
    file.write_text(
        run_to_html(run_page(make_log(name=nasty, layers=12, steps=3000), "one")), encoding="utf-8"
    )
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    plots = page.locator(".plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
    expect(page.locator(".plot:not([data-drawn])")).to_have_count(0, timeout=60_000)
    assert plots.count() == 4
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    context.close()


def test_a_server_that_stops_and_another_run_in_the_folder(
    visit: Visit, tmp_path: Path, make_log, write_log
) -> None:
    write_log(make_log(), tmp_path / "run")
    page = visit.page
    expect(page.locator("#layers, #steps").first).to_be_attached(timeout=30_000)
    logger = JsonLines(tmp_path / "run")
    logger.start(make_log().header)
    logger.record(Record(1, 0.1, {"loss": 3.0}))
    expect(page.locator("#steps")).to_have_count(0, timeout=30_000)  # the new run has no such series yet
    expect(page.locator("#notice-list li")).to_have_count(0)
    visit.server.close()
    expect(page.locator("#standing")).to_contain_text("has stopped", timeout=30_000)
    expect(page.locator("#progress")).to_be_visible()
