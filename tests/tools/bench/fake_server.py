"""A stand-in for an engine's server: `python fake_server.py MODEL --port N [options]`.

It answers every chat request with the same text, and counts 4 drafts and 5 verify forwards, 9 tokens, 4 cycles and 6
accepted drafts for each request of a mode. Options: `--die-at-start`, `--die-after N` requests, `--never-ready`,
`--refuse` (answers 400), `--slow` (half a second a request), `--child FILE` (starts a process and writes its id there),
`--text TEXT` (the answer, empty for none), `--no-histogram` (acceptance is not reported). With `together` set to a
barrier, the first requests wait for each other there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TEXT = "the fixed answer"
PER_REQUEST = {
    'forwards_total{LABELS,kind="draft"}': 4,
    'forwards_total{LABELS,kind="verify"}': 5,
    "generated_tokens_total{LABELS}": 9,
    "cycles_total{LABELS}": 4,
    "accepted_drafts_total{LABELS}": 6,
}
HISTOGRAM = [2, 0, 1, 0, 1]


class Fake(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, options: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.options = options
        self.requests: list[dict[str, Any]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.together: threading.Barrier | None = None

    def page(self) -> str:
        lines = []
        for mode in ("ar", "diffusion", "self_speculation", "auto"):
            labels = f'decoding_mode="{mode}",model_name="fake"'
            times = sum(body.get("vllm_xargs", {}).get("decoding_mode") == mode for body in self.requests)
            for name, amount in PER_REQUEST.items():
                lines.append(f"nemotron_diffusion:{name.replace('LABELS', labels)} {amount * times}.0")
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(b"", 503 if self.server.options.never_ready else 200)
        elif self.path == "/metrics":
            self._answer(self.server.page().encode())
        elif self.path == "/version":
            self._answer(b'{"version": "9.8.7"}')
        else:
            model = {"id": "fake", "object": "model", "created": 0, "owned_by": "vllm", "root": "/the/folder"}
            self._answer(json.dumps({"object": "list", "data": [model]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        together, options = self.server.together, self.server.options
        if together is not None and len(self.server.requests) <= together.parties:
            together.wait(timeout=20)
        time.sleep(0.5 if options.slow else 0.01)
        with self.server.lock:  # before the answer, after which the client may send another request
            self.server.busy -= 1
        self._reply(body)

    def _reply(self, body: dict[str, Any]) -> None:
        options = self.server.options
        if options.die_after is not None and len(self.server.requests) > options.die_after:
            print("out of memory, says the fake", flush=True)
            os._exit(1)
        if options.refuse:
            self._answer(json.dumps({"error": {"message": "no such option"}}).encode(), 400)
            return
        usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "fake"}
        histogram = {"acceptance_histogram": HISTOGRAM}
        metrics = {} if options.no_histogram else {"speculative_decoding": histogram}
        if not body.get("stream"):
            message = {"role": "assistant", "content": options.text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {**head, "choices": [choice], "usage": usage, "metrics": metrics}
            self._answer(json.dumps(answer).encode())
            return
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        ]
        first, blank, second = options.text.rpartition(" ")
        events += [
            {"choices": [{"index": 0, "delta": {"content": part}}]}
            for part in (first, blank + second)
            if part
        ]
        events.append({"choices": [], "usage": usage})
        lines = [f"data: {json.dumps({**head, **event}, ensure_ascii=False)}\n\n" for event in events]
        self._answer("".join([*lines, "data: [DONE]\n\n"]).encode())

    def _answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return None


def options(arguments: list[str]) -> argparse.Namespace:
    """Read the options; those of an engine are ignored."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--die-at-start", action="store_true")
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--refuse", action="store_true")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--child", type=Path)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--no-histogram", action="store_true")
    return parser.parse_known_args(arguments)[0]


def main() -> None:
    chosen = options(sys.argv[1:])
    print("started, says the fake", flush=True)
    if chosen.die_at_start:
        sys.exit("no such checkpoint, says the fake")
    if chosen.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        chosen.child.write_text(str(child.pid))
    Fake(chosen.port, chosen).serve_forever()


if __name__ == "__main__":
    main()
