"""The live page's server: what it says, to whom, and that it goes on with the log."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from torchstone.errors import OutputError, SettingError
from torchstone.watching.live import LiveServer
from torchstone.watching.live.server import loopback
from torchstone.watching.live.view import View
from torchstone.watching.log import WatchLog
from torchstone.watching.loggers import JsonLines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    running = LiveServer(tmp_path / "run")
    thread = threading.Thread(target=running.serve)
    thread.start()
    yield running
    running.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def ask(
    server: LiveServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_the_page_loads_from_its_own_server_only(server: LiveServer) -> None:
    status, page, headers = ask(server, "/")
    assert status == 200
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    for path in ("/plotly.js", "/live.js"):
        status, script, headers = ask(server, path)
        assert status == 200
        assert headers["Content-Type"].startswith("text/javascript")
        assert len(script) > 1000


def test_it_serves_no_files(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for path in ("/secret", "/../secret", "/%2e%2e/secret", "//etc/passwd", "/watch.jsonl"):
        status, text, _ = ask(server, path)
        assert status == 404
        assert "secret" not in text
    assert ask(server, "/", "POST")[0] == 501


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:80", "", "192.168.0.1", "localhost.evil.example", "["]
)
def test_other_names_are_refused(server: LiveServer, name: str) -> None:
    """Else a page of anybody's could read the run, by a name that it points to this machine."""
    status, text, _ = ask(server, "/state", Host=name)
    assert status == 403
    assert "own machine only" in text


@pytest.mark.parametrize("name", ["localhost:8000", "127.0.0.1", "[::1]:99", "127.1.2.3:1"])
def test_names_of_this_machine_are_not(server: LiveServer, name: str) -> None:
    assert ask(server, "/state", Host=name)[0] == 204


def test_the_state_grows_with_the_log(server: LiveServer, tmp_path: Path, make_log) -> None:
    assert ask(server, "/state?after=")[0] == 204  # nothing there yet
    log = make_log()
    logger = JsonLines(tmp_path / "run")
    logger.start(log.header)
    logger.record(log.records[0])
    status, text, _ = ask(server, "/state?after=")
    assert status == 200
    first = json.loads(text)
    assert first["running"]
    assert first["name"] == "run"
    assert first["tiles"] == [["Training loss", "1"], ["Gradient norm", "1"]]
    assert ask(server, f"/state?after={first['version']}")[0] == 204  # nothing new
    assert ask(server, "/state?after=")[0] == 200  # to a page that was reloaded
    logger.record(log.records[1])
    logger.alert(log.alerts[-1])
    logger.finish({"ended": "finished"})
    second = json.loads(ask(server, f"/state?after={first['version']}")[1])
    assert not second["running"]
    assert second["chapters"][0]["figures"][0]["drawn"]["data"][0]["y"] == [1, 0.5]
    assert second["notices"][0]["title"] == "Diverging"
    assert second["notices"][0]["word"] == "Poor"


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "watch.jsonl").write_text("hello\n")
    view = View(tmp_path)
    state = view.state()
    assert state is not None
    assert "must be the log of a watched run" in state["problem"]


def test_numbers_that_json_has_not_reach_the_page_as_null(tmp_path: Path, make_log, write_log) -> None:
    write_log(make_log(layers=12), tmp_path)
    text = json.dumps(View(tmp_path).state(), allow_nan=False)
    assert "null" in text


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.168.1.1", "example.com", "::", "", "localhost.evil.example"]
)
def test_hosts_that_others_can_reach_are_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="this machine's loopback only"):
        LiveServer(tmp_path, host)


def test_loopback_addresses() -> None:
    assert loopback("127.0.0.1") == "127.0.0.1"
    assert loopback("[::1]") == "::1"
    assert loopback("127.9.9.9") == "127.9.9.9"


def test_a_taken_port_is_said(server: LiveServer, tmp_path: Path) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(OutputError, match=rf"port {port} of 127.0.0.1 must be free; .*--port 0"):
        LiveServer(tmp_path, port=port)


def test_the_state_of_a_long_run_is_made_seldom(make_log, write_log, tmp_path: Path, monkeypatch) -> None:
    """Making it may take a tenth of the time: the training needs the processor."""
    now = 0.0
    for clock in ("monotonic", "thread_time"):
        monkeypatch.setattr(f"torchstone.watching.live.view.time.{clock}", lambda: now)
    path = write_log(make_log(steps=1), tmp_path)
    view = View(path)

    def made(_: WatchLog) -> dict[str, Any]:
        nonlocal now
        now += 1.0
        return {"version": str(view._version)}

    monkeypatch.setattr(view, "_made", made)
    asked, version = [], ""
    for _ in range(140):
        now += 0.25
        with path.open("a") as log:
            log.write("\n")
        state = view.state(version)
        if state is not None:
            version = state["version"]
            asked.append(now)
    # The first also loads what it draws with, which does not come again.
    assert [after - before for before, after in itertools.pairwise(asked)] == [1.25, 10.0, 10.0, 10.0]
