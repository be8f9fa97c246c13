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
from tests.engines.vllm.launch import Server, ServerError

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("damage", "options", "said"),
    [
        (rename_prefix, (), ["language_model.encoder", "encoder.embed_tokens.weight"]),
        (lose_a_layer, (), ["encoder.layers.1."]),
        (truncate, (), [WEIGHTS]),
        (put_in_a_nan, (), ["encoder.norm.weight", "NaN"]),
        (pickle_the_weights, (), ["safetensors"]),
        (leave, ("--additional-config", json.dumps({"threshold": 1.5})), ["threshold", "1.5", "(0, 1]"]),
        (
            leave,
            ("--additional-config", json.dumps({"denoise_forwards_per_step": 0})),
            ["denoise_forwards_per_step", "got 0", ">= 1"],
        ),
        (
            leave,
            ("--additional-config", json.dumps({"forward_costs": {"causal": [[0, 1.5]]}})),
            ["forward_costs.causal", "got 0 rows", "integer >= 1"],
        ),
        (shorten_rope, (), ["max_model_len: got 256, expected at most 128"]),
        (leave, ("--pipeline-parallel-size", "2"), ["pipeline_parallel_size: got 2, expected 1"]),
    ],
    ids=[
        "prefix",
        "missing layer",
        "truncated",
        "nan",
        "pickle",
        "threshold",
        "denoise forwards",
        "forward costs",
        "context",
        "pipeline",
    ],
)
def test_server_refuses_to_start(
    tmp_path: Path, damage: Callable[[Path], None], options: tuple[str, ...], said: list[str]
) -> None:
    write_random_checkpoint(tmp_path / "model", config={"num_hidden_layers": 2})
    damage(tmp_path / "model")
    log = tmp_path / "server.log"
    server = Server(tmp_path / "model", "--max-model-len", "256", *options, log=log)
    with pytest.raises(ServerError, match="stopped"), server:
        pass
    text = log.read_text()
    assert not [words for words in said if words not in text], server.log_tail(80)
