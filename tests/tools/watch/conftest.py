"""A stand-in of a model's server that streams known steps, and the page in front of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nemotron_diffusion_plugin.tools.client.served_model import find_model
from nemotron_diffusion_plugin.tools.watch.server import WatchServer

pytest.importorskip("openai")

STEPS = {
    "ar": [["The"], [" quick"], [" fox"]],
    "diffusion": [["The"], [" quick", " brown", " fox"]],
    "self_speculation": [["The"], [" quick", " brown"], [" fox", " <b>"]],
}
"""What the stand-in streams by decoding mode, one list of tokens for each engine step."""


class StandIn(ThreadingHTTPServer):
    """Streams `STEPS`, and counts 2 verify and 1 denoise forwards, 1 cycle and 1 accepted draft per answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.has_counters = True
        self.refuses = False
        self.closed = threading.Event()
        """Set when a client leaves before the end of an endless answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._answer({"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]})
        elif self.server.has_counters:
            self._send("text/plain", self._counters().encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.server.refuses:
            self.send_error(400, "no")
            return
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if body["messages"][0]["content"] == "forever":
            self._stream_forever()
            return
        if body["messages"][0]["content"] == "die":
            self._chunk(["The"], None)
            self.wfile.write(b"data: {")
            return
        for tokens in STEPS[body["vllm_xargs"]["decoding_mode"]]:
            self._chunk(tokens, None)
        self._chunk([], "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _stream_forever(self) -> None:
        try:
            while True:
                self._chunk([" on"], None)
                self.server.closed.wait(0.02)
        except ConnectionError:
            self.server.closed.set()

    def _chunk(self, tokens: list[str], reason: str | None) -> None:
        content = [{"token": token, "logprob": 0.0, "bytes": None, "top_logprobs": []} for token in tokens]
        choice = {
            "index": 0,
            "delta": {"content": "".join(tokens)},
            "logprobs": {"content": content} if tokens else None,
            "finish_reason": reason,
        }
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
        self.wfile.write(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode())
        self.wfile.flush()

    def _counters(self) -> str:
        lines = []
        for mode, steps in STEPS.items():
            times = [body["vllm_xargs"]["decoding_mode"] for body in self.server.bodies].count(mode)
            tokens = sum(len(step) for step in steps)
            for name, labels, value in (
                ("forwards", ',kind="verify"', 2),
                ("forwards", ',kind="denoise"', 1),
                ("generated_tokens", "", tokens),
                ("cycles", "", 1),
                ("accepted_drafts", "", 1),
            ):
                lines.append(
                    f'nemotron_diffusion:{name}_total{{decoding_mode="{mode}"{labels}}} {value * times}'
                )
        return "\n".join(lines)

    def _answer(self, content: dict[str, Any]) -> None:
        self._send("application/json", json.dumps(content).encode())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return None


def _serving(server: ThreadingHTTPServer) -> None:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def model_server() -> Iterator[StandIn]:
    with StandIn() as server:
        _serving(server)
        yield server
        server.shutdown()


@pytest.fixture
def watch_server(model_server: StandIn) -> Iterator[WatchServer]:
    with WatchServer(find_model(model_server.url), "127.0.0.1", 0) as server:
        _serving(server)
        yield server
        server.shutdown()
