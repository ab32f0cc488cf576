"""A small web server for one run, reachable from its own machine only."""

from __future__ import annotations

import ipaddress
import json
import socket
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from torchstone._version import __version__
from torchstone.errors import OutputError, SettingError
from torchstone.report.live_page import live_html, live_policy, live_script
from torchstone.watching.live.view import View

HOST = "127.0.0.1"


class LiveServer:
    """Serves the page of a run and what is new in its log; nothing else, and to nobody else.

    Requests that name another host than this machine are refused, so that no web page can read the run through a name that
    it points here.

    Args:
        place: The run's folder or its log; it need not exist yet.
        host: A loopback address.
        port: 0 for any that is free.

    Attributes:
        url: Where the page is.

    Raises:
        SettingError: The host is not of this machine's loopback.
        OutputError: The port is taken.
    """

    def __init__(self, place: str | Path, host: str = HOST, port: int = 0) -> None:
        host = loopback(host)
        view = View(place)

        class Handler(_Handler):
            the_view = view

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise OutputError(
                f"port {port} of {host} must be free", str(error), "Pass --port 0 for any free one."
            ) from None
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Answer until `close` is called from another thread, or until interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self._server.server_close()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()


def loopback(host: str) -> str:
    """An address of this machine's loopback.

    Raises:
        SettingError: Any other address or name.

    >>> loopback("localhost")
    '127.0.0.1'
    """
    try:
        address = ipaddress.ip_address(HOST if host == "localhost" else host.strip("[]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise SettingError(
            "The live page is served on this machine's loopback only",
            f"host {host!r}",
            f"Use {HOST}; from elsewhere, forward the port: ssh -L 8000:localhost:PORT this-machine.",
        )
    return str(address)


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode("utf-8")


class _Handler(BaseHTTPRequestHandler):
    the_view: View
    server_version = "torchstone"
    sys_version = ""
    protocol_version = "HTTP/1.0"  # a connection that were kept open would outlive the server

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if not _is_local(self.headers.get("Host", "")):
            self._answer(403, "text/plain", b"This page is for its own machine only.\n")
        elif asked.path == "/":
            self._answer(200, "text/html", live_html(__version__).encode("utf-8"))
        elif asked.path == "/live.js":
            self._answer(200, "text/javascript", live_script().encode("utf-8"))
        elif asked.path == "/plotly.js":
            self._answer(200, "text/javascript", _plotly())
        elif asked.path == "/state":
            self._state(parse_qs(asked.query).get("after", [""])[0])
        else:
            self._answer(404, "text/plain", b"There is nothing here.\n")

    def _state(self, after: str) -> None:
        state = self.the_view.state(after)
        if state is None:
            self._answer(204, "application/json", b"")
        else:
            self._answer(200, "application/json", json.dumps(state, allow_nan=False).encode("utf-8"))

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"{live_policy()}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            if status != 204 or name != "Content-Length":
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the page was closed meanwhile
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Requests are not worth a line each."""


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
        return name == "localhost" or (name is not None and ipaddress.ip_address(name).is_loopback)
    except ValueError:
        return False
