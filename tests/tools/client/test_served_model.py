"""What is said of a server that does not say what it serves."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nemotron_diffusion_plugin.tools.client.served_model import find_model

pytest.importorskip("openai")


class Server(ThreadingHTTPServer):
    status, models = 200, [{"id": "tiny", "object": "model", "owned_by": "sglang", "root": "/the/folder"}]
    body: bytes | None = None
    kind = "application/json"
    key = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.key = self.headers["authorization"]
        content = self.server.body
        if content is None:
            content = json.dumps({"object": "list", "data": self.server.models}).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", self.server.kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        yield one
        one.shutdown()


def test_model_engine_and_field(server: Server) -> None:
    served = find_model(f"{server.url}/")
    assert (served.url, served.name, served.engine) == (server.url, "tiny", "sglang")
    assert (served.request_field, served.checkpoint) == ("custom_params", "/the/folder")


def test_a_key_is_taken_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    find_model(server.url)
    assert server.key == "Bearer secret"


@pytest.mark.parametrize(("status", "hint"), [(401, "set OPENAI_API_KEY"), (404, "")])
def test_a_refusal_names_the_address_and_the_status(server: Server, status: int, hint: str) -> None:
    server.status = status
    with pytest.raises(ValueError, match=f"{server.url}/v1/models: expected a list of .*{status}.*{hint}"):
        find_model(server.url)


def test_a_server_without_a_model(server: Server) -> None:
    server.models = []
    with pytest.raises(ValueError, match="serves no model"):
        find_model(server.url)


def test_another_engine(server: Server) -> None:
    server.models = [{"id": "tiny", "object": "model", "owned_by": "somebody"}]
    with pytest.raises(ValueError, match="owned by 'somebody', expected one of vllm, sglang"):
        find_model(server.url)


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"[]", b"{}", b'"models"', b'{"data": 3}', b'{"data": [3]}', b"\xff"]
)
def test_what_is_no_list_of_models(server: Server, body: bytes, kind: str) -> None:
    server.body, server.kind = body, kind
    with pytest.raises(ValueError, match=server.url):
        find_model(server.url)
