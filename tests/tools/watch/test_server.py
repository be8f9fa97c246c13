"""The web server of the page."""

import json
import urllib.error
import urllib.request
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest

from nemotron_diffusion_plugin.tools.watch.server import FILES, MAX_QUESTION, WatchServer
from tests.tools.watch.conftest import STEPS, StandIn


def _get(server: WatchServer, path: str):
    return urllib.request.urlopen(server.url.rstrip("/") + path, timeout=20)


def _events(server: WatchServer, **query: object) -> list[dict]:
    with _get(server, f"/ask?{urlencode(query)}") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.read().decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


@pytest.mark.parametrize("path", FILES)
def test_the_files_of_the_page(watch_server: WatchServer, path: str) -> None:
    with _get(watch_server, path) as answer:
        assert answer.headers["content-security-policy"] == "default-src 'self'"
        assert answer.headers["content-type"] == FILES[path][1]
        assert len(answer.read()) == int(answer.headers["content-length"]) > 0


def test_an_answer(watch_server: WatchServer) -> None:
    *steps, end = _events(watch_server, mode="diffusion", question="Who?", max_tokens=7)
    assert [event["tokens"] for event in steps] == STEPS["diffusion"]
    assert end["kind"] == "end"


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"mode": "fast"}, "mode: got 'fast', expected one of ar, diffusion, self_speculation"),
        ({"mode": "ar", "question": " "}, f"question: got 0 characters, expected 1 to {MAX_QUESTION}"),
        ({"mode": "ar", "question": "a" * (MAX_QUESTION + 1)}, "question: got 4001 characters"),
        ({"mode": "ar", "question": "a", "max_tokens": "0"}, "max_tokens: got '0'"),
        ({"mode": "ar", "question": "a", "max_tokens": "²"}, "max_tokens: got '²'"),
        ({"mode": "ar", "question": "a", "max_tokens": "9" * 5000}, "max_tokens: got '999"),
    ],
)
def test_a_bad_question_is_a_400(watch_server: WatchServer, query: dict, complaint: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        _get(watch_server, f"/ask?{urlencode(query)}")
    assert complaint in refused.value.read().decode()


def test_an_unknown_page_is_a_404(watch_server: WatchServer) -> None:
    for path in ("/../server.py", "/watch.js/..", "/metrics"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(watch_server, path)


def test_another_site_cannot_use_the_page(watch_server: WatchServer) -> None:
    connection = HTTPConnection(*watch_server.server_address[:2])
    connection.request("GET", "/", headers={"host": f"evil.example:{watch_server.server_address[1]}"})
    assert connection.getresponse().status == 403


def test_a_reader_who_leaves_ends_the_request(watch_server: WatchServer, model_server: StandIn) -> None:
    answer = _get(watch_server, "/ask?mode=ar&question=forever")
    assert answer.readline().startswith(b"data: ")
    assert not model_server.closed.is_set()
    answer.close()
    assert model_server.closed.wait(10)
