"""The web server of the page: three static files, and the events of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from nemotron_diffusion_plugin.options import FIXED_MODES, DecodingMode
from nemotron_diffusion_plugin.tools.client.served_model import ServedModel
from nemotron_diffusion_plugin.tools.watch.answers import Event, ask

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
}
MAX_QUESTION = 4000
MAX_TOKENS = 2000
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class WatchServer(ThreadingHTTPServer):
    """Serves the page and asks `served` on its behalf; the model's server needs no CORS headers.

    On a loopback address it answers only requests that name a loopback host, so that no other page can use it.
    """

    daemon_threads = True

    def __init__(self, served: ServedModel, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.served = served

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    def accepts(self, host: str) -> bool:
        """Whether a request may name this host (of its Host header, the port included)."""
        local = str(self.server_address[0]) in _LOOPBACK
        return not local or host.rpartition(":")[0] in _LOOPBACK or host in _LOOPBACK


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        if not self.server.accepts(self.headers.get("host", "")):
            self._plain(HTTPStatus.FORBIDDEN, "open this page by the address that the command printed")
            return
        address = urlsplit(self.path)
        if address.path == "/ask":
            try:
                events = self._ask(parse_qs(address.query))
            except ValueError as error:
                self._plain(HTTPStatus.BAD_REQUEST, str(error))
                return
            self._stream(events)
        elif address.path in FILES:
            name, kind = FILES[address.path]
            self._send(HTTPStatus.OK, kind, (PAGE / name).read_bytes())
        else:
            self._plain(HTTPStatus.NOT_FOUND, f"there is no page {address.path[:100]}")

    def _ask(self, query: dict[str, list[str]]) -> Iterator[Event]:
        values = {name: texts[-1] for name, texts in query.items()}
        modes = [mode.value for mode in FIXED_MODES]
        mode = values.get("mode", "")
        if mode not in modes:
            raise ValueError(f"mode: got {mode[:50]!r}, expected one of {', '.join(modes)}")
        question = values.get("question", "").strip()
        if not 1 <= len(question) <= MAX_QUESTION:
            raise ValueError(f"question: got {len(question)} characters, expected 1 to {MAX_QUESTION}")
        count = values.get("max_tokens", "200")
        if not (count.isascii() and count.isdigit() and len(count) < 9 and 1 <= int(count) <= MAX_TOKENS):
            raise ValueError(
                f"max_tokens: got {count[:50]!r}, expected a whole number from 1 to {MAX_TOKENS}"
            )
        return ask(self.server.served, DecodingMode(mode), question, int(count))

    def _stream(self, events: Iterator[Event]) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self._common_headers()
        try:
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
        except ConnectionError:
            """The browser has gone: dropping the events closes the request to the model's server."""

    def _plain(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self._common_headers()
        self.wfile.write(body)

    def _common_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal belongs to the command."""
