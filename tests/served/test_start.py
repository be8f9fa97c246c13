"""A server that cannot work does not start, and its last words say why."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.common.damage import (
    WEIGHTS,
    lose_a_layer,
    pickle_the_weights,
    put_in_a_nan,
    rename_prefix,
    shorten_rope,
    truncate,
)
from tests.engines.server import ServerError
from tests.served.inside import Inside
from tests.served.setups import VLLM, start

pytestmark = pytest.mark.engine

LIMIT = "max_model_len" if VLLM else "context_length"
DAMAGES: list[tuple[Callable[[Path], None], list[str]]] = [
    (rename_prefix, ["language_model.encoder", "encoder.embed_tokens.weight"]),
    (lose_a_layer, ["encoder.layers.1."]),
    (truncate, [WEIGHTS]),
    (put_in_a_nan, ["encoder.norm.weight", "NaN"]),
    (pickle_the_weights, ["Cannot find any model weights" if VLLM else "the file holds 0"]),
]
QUICKLY_FOUND = (rename_prefix, put_in_a_nan)
"""The damages of every run: to the names and to the numbers; tests/serving has all of them without an engine."""
Refusal = tuple[Any, dict[str, str], list[str]]
"""Arguments of the engine, variables, and what is said."""


def _config(options: dict[str, Any], *said: str) -> Refusal:
    return {"additional_config": options}, {}, list(said)


def _words(*words: str, said: list[str], **variables: str) -> Refusal:
    return list(words), variables, said


_flag = partial(_words, "--decoding-options")
STOCK = "vllm.v1.core.sched.scheduler.Scheduler"
OF_VLLM = [
    _config({"threshold": 1.5}, "threshold", "1.5", "(0, 1]"),
    _config({"denoise_forwards_per_step": 0}, "denoise_forwards_per_step", "got 0", ">= 1"),
    _config({"forward_costs": {"causal": [[0, 1.5]]}}, "forward_costs.causal", "got 0 rows", "integer >= 1"),
    ({"pipeline_parallel_size": 2}, {}, ["pipeline_parallel_size: got 2, expected 1"]),
    ({"scheduler_cls": STOCK}, {}, [f"scheduler_cls: got '{STOCK}', expected none"]),
]
OF_SGLANG = [
    _words(NEMOTRON_DIFFUSION_OPTIONS='{"threshold": 1.5}', said=["threshold", "1.5", "(0, 1]"]),
    _words("--max-total-tokens", "60", said=["max_total_tokens: got 60, expected at least 65"]),
    _flag("fast", said=["--decoding-options", "'fast'", "JSON object"]),
    _flag("[1]", said=["--decoding-options", "'[1]'", "JSON object"]),
    _flag('{"treshold": 1}', said=["unknown option", "treshold", "threshold, "]),
    _flag('{"threshold": 1.5}', said=["threshold", "1.5", "(0, 1]"]),
    _flag('{"decoding_mode": "turbo"}', said=["decoding_mode", "'turbo'", "'self_speculation'"]),
    _flag('{"denoise_forwards_per_step": 0}', said=["denoise_forwards_per_step", "got 0", ">= 1"]),
    _flag('{"kernels": "triton"}', said=["'kernels'", "'triton' on cpu", "TRITON_INTERPRET=1"]),
    _words("--speculative-num-draft-tokens", "16", said=["speculative_num_draft_tokens", "got 16", "32"]),
    _words("--pp-size", "2", said=["pp_size: got 2, expected 1"]),
    _words("--tokenizer-worker-num", "2", said=["tokenizer_worker_num: got 2, expected 1"]),
    _words("--enable-lora", "--lora-paths", "a=/nowhere", said=["enable_lora: got True, expected False"]),
]
REFUSALS = OF_VLLM if VLLM else OF_SGLANG
NONE: Any = {} if VLLM else []


def write(folder: Path) -> Path:
    write_random_checkpoint(folder, config={"num_hidden_layers": 2})
    return folder


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(*each, id=each[0].__name__, marks=() if each[0] in QUICKLY_FOUND else pytest.mark.long)
        for each in DAMAGES
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, inside: Inside, damage: Callable[[Path], None], said: list[str]
) -> None:
    damage(write(tmp_path / "model"))
    _, text = inside.ask("refusals", str(tmp_path / "model"), NONE)
    assert text is not None
    assert not [words for words in said if words not in text], text


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    REFUSALS,
    ids=[json.dumps(arguments or variables) for arguments, variables, _ in REFUSALS],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, inside: Inside, arguments: Any, variables: dict[str, str], said: list[str]
) -> None:
    _, text = inside.ask("refusals", str(write(tmp_path / "model")), arguments, **variables)
    assert text is not None
    assert not [words for words in said if words not in text], text


def test_a_context_past_the_rotations_is_refused(tmp_path: Path, inside: Inside) -> None:
    """Where a user asks for it, and even where the engine was told to allow it."""
    shorten_rope(write(tmp_path / "model"))
    _, text = inside.ask("refusals", str(tmp_path / "model"), NONE)
    assert text is not None
    assert "256" in text
    assert "128" in text
    allowed = "VLLM_ALLOW_LONG_MAX_MODEL_LEN" if VLLM else "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"
    _, text = inside.ask("refusals", str(tmp_path / "model"), NONE, **{allowed: "1"})
    assert text is not None
    assert f"{LIMIT}: got 256, expected at most 128" in text


def test_a_context_that_nobody_asked_for_is_what_the_rotations_cover(tmp_path: Path, inside: Inside) -> None:
    shorten_rope(write(tmp_path / "model"))
    longest = {"max_model_len": None} if VLLM else ["--context-length", "128"]
    inside.run("refusals", str(tmp_path / "model"), longest)


def test_what_is_whole_is_not_refused(tmp_path: Path, inside: Inside) -> None:
    inside.run("refusals", str(write(tmp_path / "model")), NONE)


def test_a_server_s_last_words_say_why(tmp_path: Path) -> None:
    """What the process with the weights finds reaches the log of the server, which ends."""
    put_in_a_nan(write(tmp_path / "plain"))
    with pytest.raises(ServerError, match="stopped") as caught, start("plain", tmp_path, tmp_path):
        pass
    log = (tmp_path / "plain.log").read_text()
    assert "tensor 'encoder.norm.weight' holds NaN or infinite values" in log, caught.value
