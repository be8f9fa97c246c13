"""The recorder passes on what it keeps, piece by piece, and finds an error in either kind of answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.clients.recorder import HOST, Exchange, Recorder

FIRST, SECOND = b'data: {"text": "a"}\n\n', b"data: [DONE]\n\n"


class Streaming(BaseHTTPRequestHandler):
    """Sends the second event of a stream only after the client has said that it has the first one."""

    protocol_version = "HTTP/1.1"
    goes_on = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(FIRST)
        assert self.goes_on.wait(10)
        self._chunk(SECOND)
        self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), Streaming) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{listener.server_port}"
        listener.shutdown()


def test_a_stream_arrives_piece_by_piece_and_is_kept(server: str) -> None:
    with (
        Recorder(server) as recorder,
        httpx.stream("POST", f"{recorder.url}/path", json={"a": 1}, timeout=10) as reply,
    ):
        pieces = reply.iter_raw()
        assert next(pieces) == FIRST
        Streaming.goes_on.set()
        assert b"".join(pieces) == SECOND
    assert recorder.exchanges == [Exchange("/path", {"a": 1}, 200, FIRST + SECOND)]
    assert recorder.exchanges[0].error is None


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, '{"error": {"message": "no"}}'),
        (200, 'data: {"text": "a"}\n\ndata: {"error": {"message": "no"}}\n\n'),
        (200, 'event: error\ndata: {"type":"error","error":{"message":"no"}}\n\n'),
    ],
)
def test_an_error_is_found(status: int, answer: str) -> None:
    error = Exchange("/path", {}, status, answer.encode()).error
    assert error is not None
    assert "no" in error


def test_a_response_without_an_error_has_none() -> None:
    answer = "data: " + json.dumps({"response": {"error": None, "output": []}})
    assert Exchange("/path", {}, 200, answer.encode()).error is None
