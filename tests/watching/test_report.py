"""The page of a run: every series is there, spikes survive, alerts are told once, hostile names stay text."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest

from torchstone.details import Curve, Surface, Table
from torchstone.reading import Level
from torchstone.report.run_page import run_to_html
from torchstone.watching.condense import condensed
from torchstone.watching.log import WatchLog
from torchstone.watching.notices import alerted_series, notices
from torchstone.watching.record import Alert, Header, Record, Series
from torchstone.watching.report import by_layer, chapters, in_numbers, name_of, run_page, standing


def details(log: WatchLog) -> dict[str, object]:
    return {detail.title: detail for chapter in chapters(log) for detail in chapter.details}


def test_every_series_is_drawn_once(make_log) -> None:
    log = make_log()
    lines = [
        line.name for detail in details(log).values() if isinstance(detail, Curve) for line in detail.lines
    ]
    for name in log.names:
        assert lines.count(log.described(name).title) == 1


def test_series_of_the_users_own_are_drawn_too(make_log) -> None:
    log = make_log()
    log.records.append(Record(41, 5.0, {"my_own": 3.0}, {"their_own": {"a": 1.0}}))
    assert {"My own", "Their own, by layer"} <= set(details(log))
    assert chapters(log)[-1].id == "others"


def test_losses_share_a_plot_and_alerts_are_marked_where_they_show(make_log) -> None:
    found = details(make_log())
    loss = found["Training loss and held-out loss"]
    assert isinstance(loss, Curve)
    assert [line.name for line in loss.lines] == ["Training loss", "Held-out loss"]
    assert [(mark.label, mark.value, mark.axis) for mark in loss.markers] == [("diverging, step 40", 40, "x")]
    gradient = found["Gradient norm"]
    assert isinstance(gradient, Curve)
    assert gradient.y.log
    assert [mark.label for mark in gradient.markers] == ["diverging, step 40"]
    edge = found["Stability edge"]
    assert isinstance(edge, Curve)
    assert [(mark.label, mark.value) for mark in edge.markers] == [("edge of stability", 1.0)]


def test_few_layers_are_lines_and_many_a_map(make_log) -> None:
    few = by_layer(make_log(layers=3), "gradient_norm")
    assert isinstance(few, Curve)
    assert [line.name for line in few.lines] == ["block.0", "block.1", "block.2"]
    assert few.lines[1].y[:2] == pytest.approx((0.1, 0.05))
    many = by_layer(make_log(layers=12, steps=200), "gradient_norm")
    assert isinstance(many, Surface)
    assert many.rows[0] == "block.0"
    assert len(many.rows) == 12
    # 200 records in columns of 3; the median of 1, 1/2 and 1/3 is 1/2.
    assert many.z[1][0] == pytest.approx(0.05)
    assert many.x[0] == 3
    assert many.x[-1] == 200
    assert "zeros" in many.caption


def test_layers_that_come_later_leave_holes() -> None:
    layers = [{"gradient_norm": {f"a{k}": 1.0 for k in range(9 if step > 1 else 8)}} for step in (1, 2)]
    log = WatchLog(
        Header("", "Net", 1, "SGD", None, "1", 0.1),
        [Record(i + 1, 0.0, {}, one) for i, one in enumerate(layers)],
    )
    drawn = by_layer(log, "gradient_norm")
    assert isinstance(drawn, Surface)
    assert math.isnan(drawn.z[8][0])
    assert drawn.z[8][1] == 1.0


def test_a_spike_survives_thinning() -> None:
    values = [1.0] * 5000
    values[3210] = 50.0
    values[99] = math.nan
    line = condensed("loss", list(range(5000)), values, 300)
    assert len(line.x) <= 300
    assert max(line.high) == 50.0
    assert max(line.y) < 10
    assert min(line.low) == 1.0


def test_condensing_keeps_means_and_short_series() -> None:
    steps, values = [1, 2, 3, 4, 5], [1.0, 100.0, math.inf, math.nan, 3.0]
    assert condensed("a", steps, values, 5).y[:2] == (1.0, 100.0)
    assert condensed("a", steps, values, 3, log=True).y == pytest.approx((10.0, math.nan, 3.0), nan_ok=True)
    assert condensed("a", steps, values, 3, band=False).low == ()
    assert condensed("a", [], [], 3).x == ()


def test_alerts_of_one_kind_are_one_notice(make_log) -> None:
    found = notices(make_log().alerts)
    assert [one.title for one in found] == ["Vanishing", "Diverging", "Large steps"]  # the worst first
    assert found[0].level is Level.POOR
    assert found[0].places == ("block.1", "block.2")
    assert found[0].message == "block.1 hardly moves. The same in 1 more layer."
    assert found[0].when == "from step 10"
    assert found[2].when == "step 5"
    again = [Alert(step, "overfitting", "attention", "", f"At {step}.", "") for step in (3, 9)]
    (one,) = notices(again)
    assert (one.when, one.message, one.places) == ("2 times, from step 3 to 9", "At 9.", ())
    assert notices([]) == ()


def test_instruments_alerts_show_in_their_own_series(make_log) -> None:
    assert alerted_series("stability edge", make_log()) == ("stability_edge",)
    assert alerted_series("something else", make_log()) == ()


def test_the_account_tells_what_was_never_measured(make_log) -> None:
    page = run_page(make_log(), "one")
    account, numbers = page.account
    assert isinstance(account, Table)
    assert account.rows == (("loss", 40, 0.01, 0.25), ("stability_edge", 0, 0.0, None))
    assert "never measured" in account.caption
    assert numbers == in_numbers(make_log())
    assert ("Taken", "8.0% of the training time, writing the log included") in page.circumstances
    assert page.facts[-1] == "40 steps in 4.0 s"
    running = run_page(make_log(ended=False), "one")
    assert running.account[0].rows[0] == ("Training loss", 40)  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_leave_out_what_is_none(make_log) -> None:
    rows = {row[0]: row[1:] for row in in_numbers(make_log()).rows}
    assert rows["Training loss (loss)"] == (1.0, 1 / 39, 100.0, 1 / 39, 40)


def test_how_a_run_ended(make_log) -> None:
    assert standing(make_log()) == ""
    assert "goes on, was killed, or could no longer write its log" in standing(make_log(ended=False))
    log = make_log()
    log.summary = {"ended": "KeyboardInterrupt"}
    assert standing(log) == "This run was broken off by KeyboardInterrupt."


def test_names_of_runs(tmp_path) -> None:
    assert name_of(tmp_path / "one") == "one"
    assert name_of(tmp_path / "one" / "watch.jsonl") == "one"


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_offline_and_escapes_hostile_names(make_log, nasty: str) -> None:
    log = make_log(name=nasty, layers=12)
    page = _Page(run_to_html(run_page(log, nasty)))
    tags = [tag for tag, _ in page.tags]
    assert "img" not in tags
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    assert nasty in page.text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_a_run_of_many_records_and_layers_stays_below_six_megabytes(make_log) -> None:
    assert len(run_to_html(run_page(make_log(steps=20_000, layers=60), "long")).encode()) < 6_000_000


@pytest.mark.parametrize("records", [[], [Record(1, 0.1, {})], [Record(1, 0.1, {"loss": math.nan})]])
def test_an_empty_run_has_a_page(records: list[Record]) -> None:
    header = Header("not a date", "Net", 1, "SGD", None, "7", 0.1)
    text = run_to_html(run_page(WatchLog(header, records), "empty"))
    measured = any(record.values for record in records)
    assert ("Nothing: no alert was raised" if measured else "nothing was measured") in text
    assert "every 7 steps" in text


@pytest.mark.parametrize(("worst", "log"), [(3.0, False), (200.0, True), (math.inf, False)])
def test_a_loss_that_shot_up_is_drawn_on_a_logarithmic_axis(worst: float, log: bool) -> None:
    header = Header("2026-01-02", "Net", 1, "SGD", 0.1, "1", 0.1, {"loss": Series("Training loss", "loss")})
    records = [Record(i, i / 10, {"loss": worst if i == 9 else 1.0 + 1 / i}) for i in range(1, 30)]
    (chapter,) = chapters(WatchLog(header, records))
    (curve,) = chapter.details
    assert isinstance(curve, Curve)
    assert curve.y.log is log
    below_zero = [Record(i, 0.1, {"loss": 200.0 if i == 9 else -1.0}) for i in range(1, 30)]
    (chapter,) = chapters(WatchLog(header, below_zero))
    assert isinstance(chapter.details[0], Curve)
    assert not chapter.details[0].y.log
