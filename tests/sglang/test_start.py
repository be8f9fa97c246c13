"""A server that cannot work does not start, and its last words say why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.common.damage import (
    WEIGHTS,
    leave,
    lose_a_layer,
    pickle_the_weights,
    put_in_a_nan,
    rename_prefix,
    shorten_rope,
    truncate,
)
from tests.engines.sglang.launch import CPU_OPTIONS, Server, ServerError
from tests.sglang.inside.run import run

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("damage", "variables", "said"),
    [
        (rename_prefix, {}, ["language_model.encoder", "encoder.embed_tokens.weight"]),
        (lose_a_layer, {}, ["encoder.layers.1."]),
        (truncate, {}, [WEIGHTS]),
        (put_in_a_nan, {}, ["encoder.norm.weight", "NaN"]),
        (pickle_the_weights, {}, ["safetensors"]),
        (shorten_rope, {}, ["context_length: got 256, expected at most 128"]),
        (leave, {"NEMOTRON_DIFFUSION_OPTIONS": '{"threshold": 1.5}'}, ["threshold", "1.5", "(0, 1]"]),
    ],
    ids=["prefix", "missing layer", "truncated", "nan", "pickle", "context", "threshold"],
)
def test_server_refuses_to_start(
    tmp_path: Path, damage: Callable[[Path], None], variables: dict[str, str], said: list[str]
) -> None:
    write_random_checkpoint(tmp_path / "model", config={"num_hidden_layers": 2})
    damage(tmp_path / "model")
    log = tmp_path / "server.log"
    server = Server(tmp_path / "model", "--context-length", "256", log=log, variables=variables)
    with pytest.raises(ServerError, match="stopped"), server:
        pass
    text = log.read_text()
    assert not [words for words in said if words not in text], server.log_tail(80)


def test_a_pool_in_which_nothing_could_decode(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "model", config={"num_hidden_layers": 1})
    log = tmp_path / "server.log"
    with (
        pytest.raises(ServerError, match="stopped"),
        Server(tmp_path / "model", "--context-length", "256", "--max-total-tokens", "60", log=log),
    ):
        pass
    assert "max_total_tokens: got 60, expected at least 65" in log.read_text()


REFUSED: list[tuple[list[str], list[str]]] = [
    (["--decoding-options", "fast"], ["--decoding-options", "'fast'", "JSON object"]),
    (["--decoding-options", "[1]"], ["--decoding-options", "'[1]'", "JSON object"]),
    (["--decoding-options", '{"treshold": 1}'], ["unknown option", "treshold", "threshold, "]),
    (["--decoding-options", '{"threshold": 1.5}'], ["threshold", "1.5", "(0, 1]"]),
    (
        ["--decoding-options", '{"decoding_mode": "turbo"}'],
        ["decoding_mode", "'turbo'", "'self_speculation'"],
    ),
    (
        ["--decoding-options", '{"denoise_forwards_per_step": 0}'],
        ["denoise_forwards_per_step", "got 0", ">= 1"],
    ),
    (["--decoding-options", '{"kernels": "triton"}'], ["'kernels'", "'triton' on cpu", "TRITON_INTERPRET=1"]),
    (["--speculative-num-draft-tokens", "16"], ["speculative_num_draft_tokens", "got 16", "32"]),
    (["--pp-size", "2"], ["pp_size: got 2, expected 1"]),
    (["--tokenizer-worker-num", "2"], ["tokenizer_worker_num: got 2, expected 1"]),
    (["--enable-lora", "--lora-paths", "a=/nowhere"], ["enable_lora: got True, expected False"]),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """Why each of `REFUSED` was refused, and of an ordinary command line."""
    model = tmp_path_factory.mktemp("arguments") / "model"
    write_random_checkpoint(model)
    common = ["--model-path", str(model), *CPU_OPTIONS]
    lines = [[*common, *words] for words in [*(words for words, _ in REFUSED), []]]
    result: list[str | None] = run("arguments", json.dumps(lines))
    return result


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(words) for words, _ in REFUSED])
def test_command_line_is_refused(refusals: list[str | None], number: int) -> None:
    text = refusals[number]
    assert text is not None
    assert not [words for words in REFUSED[number][1] if words not in text], text


def test_a_plain_command_line_is_not_refused(refusals: list[str | None]) -> None:
    assert refusals[-1] is None
