"""A proxy between a client and a server: it keeps what the client sent, and how the server answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
SECONDS = 300.0
_OF_ONE_CONNECTION = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Exchange:
    """A request with a JSON body, and its answer as it went over the wire."""

    path: str
    body: dict[str, Any]
    status: int
    answer: bytes

    @property
    def error(self) -> str | None:
        """What is wrong with the answer: its status, or an event of its stream; None where nothing is."""
        text = self.answer.decode(errors="replace")
        if self.status != 200:
            return f"{self.status}: {text}"
        return next((event for event in _events(text) if '"error": {' in event or '"error":{' in event), None)


def _events(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.startswith("data:"))


class Recorder:
    """Listens on a free port while its block runs and passes every request on to a server."""

    def __init__(self, server: str) -> None:
        self.exchanges: list[Exchange] = []
        self._server = urlsplit(server).netloc
        self._listener = ThreadingHTTPServer((HOST, 0), self._handler())
        self._listener.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._listener.server_port}"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder._pass_on(self, b"")

            def do_POST(self) -> None:
                recorder._pass_on(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def _pass_on(self, client: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send one request on and its answer back, piece by piece; the end of the connection ends the answer."""
        headers = {
            key: value for key, value in client.headers.items() if key.lower() not in _OF_ONE_CONNECTION
        }
        pieces: list[bytes] = []
        with closing(HTTPConnection(self._server, timeout=SECONDS)) as server:
            server.request(client.command, client.path, content or None, headers)
            reply = server.getresponse()
            client.send_response(reply.status)
            for key, value in reply.getheaders():
                if key.lower() not in _OF_ONE_CONNECTION:
                    client.send_header(key, value)
            client.end_headers()
            while piece := reply.read1():
                pieces.append(piece)
                client.wfile.write(piece)
        if content:
            exchange = Exchange(client.path, json.loads(content), reply.status, b"".join(pieces))
            self.exchanges.append(exchange)
