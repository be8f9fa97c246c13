"""Clients of other projects: what they send by themselves is answered in every mode (docs/clients.md)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nemotron_diffusion_plugin.options import DecodingMode
from tests.clients.recorder import Exchange, Recorder
from tests.clients.snippets import Command, command, program, snippets
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]  # the first test sets the clients up

GENERATING = (CHAT, COMPLETIONS, "/v1/responses", "/v1/messages", "/generate")
WITHOUT_OPTIONS = () if VLLM else ("/v1/responses", "/v1/messages")
"""Paths whose requests get the server's defaults whatever they ask for."""

WITHOUT_TEXT = dict.fromkeys(("messages", "prompt", "input"))
AT_ONCE = 4
MODES = (None, *(mode.value for mode in DecodingMode))
PROGRAMS = ("openai_sdk", "anthropic_sdk", "langchain_chat", "litellm_calls")

CHAT_BACKEND = "--backend openai-chat --endpoint /v1/chat/completions"
OTHER_PATHS: dict[str, dict[str, str]] = {
    "vllm bench serve": {CHAT_BACKEND: ""},
    "sglang.bench_serving": {"--backend vllm-chat": "--backend vllm"}
    if VLLM
    else {
        "--backend sglang-oai-chat": "",
        '{"custom_params"': '{"sampling_params": {"temperature": 0, "max_new_tokens": 8, "custom_params"',
        "0.9}}": "0.9}}}",
    },
}
"""Changes of the snippets of benchmarks."""


@pytest.fixture
def recorder(running: Running) -> Iterator[Recorder]:
    with Recorder(running.server.url) as recorder:
        yield recorder


def run(chosen: Command, folder: Path) -> None:
    variables = {**chosen.variables, "HF_HOME": str(folder / "hub")}
    ended = subprocess.run(
        chosen.words, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ended.returncode == 0, ended.stdout[-6000:]


def generating(recorder: Recorder) -> list[Exchange]:
    """What a client sent to have something generated, all of it answered."""
    sent = [exchange for exchange in recorder.exchanges if exchange.path.partition("?")[0] in GENERATING]
    assert sent
    assert [exchange.error for exchange in sent if exchange.error] == []
    return sent


def asks_for_a_form(body: dict[str, Any]) -> bool:
    """Whether a body asks for what only a grammar keeps, which diffusion refuses."""
    form = body.get("response_format")
    for field in ("text", "output_config"):
        if isinstance(body.get(field), dict):
            form = form or body[field].get("format")
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    strict = any(tool.get("function", tool).get("strict") for tool in body.get("tools", []))
    return form is not None or kind not in (None, "auto", "none") or (strict and kind != "none")


def check_every_mode(running: Running, sent: list[Exchange]) -> None:
    """Bodies that differ in more than their text, sent again in every mode and without options."""
    different = {json.dumps({**exchange.body, **WITHOUT_TEXT}): exchange for exchange in sent}
    chosen = [exchange for exchange in different.values() if exchange.path not in WITHOUT_OPTIONS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda one: check_mode(running, *one), product(chosen, MODES)))


def check_mode(running: Running, exchange: Exchange, mode: str | None) -> None:
    body = deepcopy(exchange.body)
    holder = holder_of_options(body)
    holder.pop(running.options_field, None)
    if mode is not None:
        holder[running.options_field] = {"decoding_mode": mode}
    again = answered(running, exchange.path, body)
    if mode == "diffusion" and asks_for_a_form(body):
        assert again.status == 400, body
        assert b"use decoding_mode 'auto', 'ar' or 'self_speculation'" in again.answer
    else:
        assert again.error is None, body


def holder_of_options(body: dict[str, Any]) -> dict[str, Any]:
    """Where a body carries its options: SGLang's own path has them among the sampling parameters."""
    holder: dict[str, Any] = body.get("sampling_params", body)
    return holder


def answered(running: Running, path: str, body: dict[str, Any]) -> Exchange:
    reply = running.client.http.post(path, json=body)
    return Exchange(path, body, reply.status_code, reply.content)


@on(long=["trained"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_usual_uses(running: Running, recorder: Recorder, tmp_path: Path, name: str) -> None:
    """The program checks the answers in the default mode; its bodies are then sent in the others."""
    run(program(f"{name}.py", recorder.url, running.client.model), tmp_path)
    check_every_mode(running, generating(recorder))


@on(long=["trained"])
@pytest.mark.parametrize("client", snippets())
def test_snippet(running: Running, recorder: Recorder, tmp_path: Path, client: str) -> None:
    """It runs as the page has it."""
    check_snippet(running, recorder, tmp_path, client)


@on(long=["trained"])
@pytest.mark.parametrize("client", OTHER_PATHS)
def test_other_paths_of_the_benchmarks(
    running: Running, recorder: Recorder, tmp_path: Path, client: str
) -> None:
    """The path that a benchmark takes by default; SGLang's own, and completions."""
    check_snippet(running, recorder, tmp_path, client, OTHER_PATHS[client])
    assert CHAT not in [exchange.path for exchange in recorder.exchanges]


def check_snippet(
    running: Running,
    recorder: Recorder,
    folder: Path,
    client: str,
    changes: Mapping[str, str] | None = None,
) -> None:
    """Run a snippet: its requests are decoded in the mode that it names, and would be in the others."""
    before = running.client.settled()
    run(command(client, recorder.url, running.client.model, VLLM, folder, changes), folder)
    sent = generating(recorder)
    options = [holder_of_options(exchange.body)[running.options_field] for exchange in sent]
    assert {option["decoding_mode"] for option in options} == {"diffusion"}
    mode = "auto" if sent[0].path in WITHOUT_OPTIONS else "diffusion"
    count = before.mode("requests", mode) + len(sent)
    after = running.client.settled(lambda metrics: metrics.mode("requests", mode) >= count)
    assert after.mode("requests", mode) == count
    check_every_mode(running, sent)


@on(long=["pool"])
@pytest.mark.parametrize("path", GENERATING[:4])
def test_the_least_that_clients_send_where_diffusion_is_the_default(running: Running, path: str) -> None:
    assert running.reference.defaults.decoding_mode is DecodingMode.DIFFUSION
    messages = {"messages": [{"role": "user", "content": "Who?"}]}
    asked: dict[str, Any] = {
        CHAT: messages,
        COMPLETIONS: {"prompt": "Who?"},
        "/v1/responses": {"input": "Who?", "max_output_tokens": 20},
        "/v1/messages": {**messages, "max_tokens": 20},
    }[path]
    before = running.client.settled().mode("requests", "diffusion")
    for stream in (False, True):
        body = {"model": running.client.model, **asked, "stream": stream}
        assert answered(running, path, body).error is None
    running.client.settled(lambda metrics: metrics.mode("requests", "diffusion") == before + 2)
