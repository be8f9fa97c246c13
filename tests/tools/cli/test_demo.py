"""`nemotron-diffusion demo` against a stand-in of the server with known counters."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from nemotron_diffusion_plugin.options import FIXED_MODES
from nemotron_diffusion_plugin.tools.cli import app
from nemotron_diffusion_plugin.tools.cli.demo import ask_in_every_mode
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters, parse_counters
from nemotron_diffusion_plugin.tools.client.served_model import REQUEST_FIELDS

pytest.importorskip("openai")

PAGE = """
# HELP nemotron_diffusion:forwards_total Forwards.
# TYPE nemotron_diffusion:forwards_total counter
nemotron_diffusion:forwards_total{decoding_mode="ar",kind="verify",model_name="a, \\"b\\""} 7.0
nemotron_diffusion:forwards_total{decoding_mode="ar",kind="prefill",model_name="m"} 3.0
nemotron_diffusion:forwards_total{decoding_mode="diffusion",kind="denoise",model_name="m"} 20.0
nemotron_diffusion:forwards_total{decoding_mode="diffusion",kind="verify",model_name="m"} 2.0
nemotron_diffusion:generated_tokens_total{decoding_mode="ar",model_name="m"} 8.0
nemotron_diffusion:generated_tokens_total{decoding_mode="diffusion",model_name="m"} 6.6e+01
nemotron_diffusion:generated_tokens_created{decoding_mode="ar",model_name="m"} 1.7e+09
nemotron_diffusion:cycles_total{decoding_mode="diffusion",model_name="m"} 2.0
process_cpu_seconds_total 12.3
"""


class StandIn(ThreadingHTTPServer):
    """Answers as a server would and counts 4 draft, 5 verify forwards, 9 tokens and 4 cycles per request."""

    requests: list[dict[str, Any]]
    engine = "vllm"
    has_counters = True
    has_metrics = True
    refusal = 0

    @property
    def asked(self) -> list[str]:
        """The decoding mode of each request."""
        return [body[REQUEST_FIELDS[self.engine]]["decoding_mode"] for body in self.requests]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self) -> str:
        if not self.has_counters:
            return "process_cpu_seconds_total 12.3\n"
        lines = []
        for mode in FIXED_MODES:
            times = self.asked.count(mode.value)
            labels = f'decoding_mode="{mode.value}",model_name="tiny"'
            lines += [
                f'nemotron_diffusion:forwards_total{{{labels},kind="draft"}} {4 * times}.0',
                f'nemotron_diffusion:forwards_total{{{labels},kind="verify"}} {5 * times}.0',
                f"nemotron_diffusion:generated_tokens_total{{{labels}}} {9 * times}.0",
                f"nemotron_diffusion:cycles_total{{{labels}}} {4 * times}.0",
                f"nemotron_diffusion:accepted_drafts_total{{{labels}}} {6 * times}.0",
            ]
        return "\n".join(lines)


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        if self.path != "/metrics":
            model = {"id": "tiny", "object": "model", "created": 0, "owned_by": self.server.engine}
            self._answer(json.dumps({"object": "list", "data": [model]}).encode())
        elif self.server.has_metrics:
            self._answer(self.server.page().encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.server.refusal:
            self._answer(
                json.dumps({"error": {"message": "max_tokens is too large"}}).encode(), self.server.refusal
            )
            return
        self.server.requests.append(body)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "[b]5[/b]"},
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny"}
        self._answer(json.dumps({**head, "choices": [choice], "usage": usage}).encode())

    def _answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json" if content[:1] in b"{[" else "text/plain")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(("127.0.0.1", 0), Handler) as stand_in:
        stand_in.requests = []
        thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
        thread.start()
        yield stand_in
        stand_in.shutdown()


def test_counters_of_one_mode() -> None:
    ar = parse_counters(PAGE, "ar")
    assert ar == ModeCounters(0, 0, 7, 8, 0, 0)
    assert (ar.forwards, ar.acceptance_length) == (7, 0.0)
    diffusion = parse_counters(PAGE, "diffusion")
    assert diffusion == ModeCounters(0, 20, 2, 66, 2, 0)
    assert diffusion.tokens_per_forward == 3.0


def test_several_processes_are_added_up() -> None:
    line = 'nemotron_diffusion:generated_tokens_total{decoding_mode="ar",engine_type="unified",tp_rank="0"'
    page = f'{line},pid="7"}} 3.0\n{line},pid="8"}} 4.0\n'
    assert parse_counters(page, "ar").generated_tokens == 7


def test_difference_and_ratios() -> None:
    before, after = ModeCounters(1, 2, 3, 10, 2, 4), ModeCounters(3, 2, 8, 24, 6, 14)
    counted = after.since(before)
    assert counted == ModeCounters(2, 0, 5, 14, 4, 10)
    assert (counted.tokens_per_forward, counted.acceptance_length) == (2.0, 3.5)
    assert ModeCounters(0, 0, 0, 1, 0, 0).tokens_per_forward == 0.0


@pytest.mark.parametrize("engine", REQUEST_FIELDS)
def test_every_mode_is_asked_the_same_question_greedily(server: StandIn, engine: str) -> None:
    server.engine = engine
    answers = ask_in_every_mode(server.url + "/", "2 + 3?", 100)
    assert [answer.mode for answer in answers] == list(FIXED_MODES)
    for answer in answers:
        assert answer.counters == ModeCounters(4, 0, 5, 9, 4, 6)
        assert (answer.text, answer.tokens) == ("[b]5[/b]", 9)
    asked = zip(server.asked, (body["max_tokens"] for body in server.requests), strict=True)
    assert list(asked) == [(mode.value, most) for mode in FIXED_MODES for most in (40, 100)]
    assert all(body["temperature"] == 0 and body["model"] == "tiny" for body in server.requests)
    assert all(body["messages"] == [{"role": "user", "content": "2 + 3?"}] for body in server.requests)


def test_the_table_shows_answers_as_they_are(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = CliRunner().invoke(app, ["demo", "--url", server.url])
    assert result.exit_code == 0, result.output
    for cell in ("[b]5[/b]", "9 (4 draft, 5 verify)", "1.00", "2.50", "self_speculation"):
        assert cell in result.output


def test_a_server_without_the_plugin_is_named(server: StandIn) -> None:
    server.has_counters = False
    result = CliRunner().invoke(app, ["demo", "--url", server.url])
    assert result.exit_code == 2
    assert "does not serve Nemotron-Labs-Diffusion" in result.output


def test_sglang_without_metrics_is_told_the_option(server: StandIn) -> None:
    server.engine, server.has_metrics = "sglang", False
    result = CliRunner().invoke(app, ["demo", "--url", server.url])
    assert result.exit_code == 2
    assert "start it with --enable-metrics" in result.output


def test_another_engine_is_named(server: StandIn) -> None:
    server.engine = "llamacpp"
    result = CliRunner().invoke(app, ["demo", "--url", server.url])
    assert result.exit_code == 2
    assert "owned by 'llamacpp', expected one of vllm, sglang" in result.output


def test_no_server(server: StandIn) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    result = CliRunner().invoke(app, ["demo", "--url", url])
    assert result.exit_code == 2
    assert f"no server answers at {url}" in result.output


@pytest.mark.parametrize(("status", "ending"), [(400, 2), (500, 1)])
def test_what_the_server_refuses_is_one_line(server: StandIn, status: int, ending: int) -> None:
    server.refusal = status
    result = CliRunner().invoke(app, ["demo", "--url", server.url, "--max-tokens", "100000"])
    assert result.exit_code == ending
    assert result.stderr == f"error: the server at {server.url} answered {status}: max_tokens is too large\n"


def test_the_scheme_and_v1_need_not_be_named(server: StandIn) -> None:
    for url in (server.url.removeprefix("http://"), f"{server.url}/v1"):
        assert CliRunner().invoke(app, ["demo", "--url", url]).exit_code == 0


def test_a_narrow_terminal_cuts_nothing_off(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = CliRunner().invoke(app, ["demo", "--url", server.url]).output
    assert "…" not in shown
