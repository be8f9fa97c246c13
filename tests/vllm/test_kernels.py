"""A server that takes our kernels wherever it can: `--attention-backend CUSTOM` and `kernels` set to triton."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.common.cases import MODES, Case, Reference, prompt
from tests.common.checkpoints import checkpoint_folder
from tests.engines.vllm.launch import Server
from tests.vllm.client import Client

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_MODEL_LEN = 64


def test_a_server(tmp_path: Path) -> None:
    """A few tokens of each mode at once, behind prompts of one piece and of two: as the reference decoder's."""
    folder = checkpoint_folder("one-layer", tmp_path)
    options = (
        *(
            "--attention-backend",
            "CUSTOM",
            "--max-model-len",
            str(MAX_MODEL_LEN),
            "--no-enable-prefix-caching",
        ),
        *("--additional-config", json.dumps({"kernels": "triton", "forward_costs": "arithmetic"})),
    )
    with Server(folder, *options, log=tmp_path / "log") as server:
        client, reference = Client(server.url, str(folder)), Reference(folder, MAX_MODEL_LEN)
        rng = random.Random(2)
        short, long = (prompt(rng, length, reference.config.vocab_size) for length in (3, 34))
        cases = [
            Case(tokens, 4, {"decoding_mode": mode, **more}, ignore_eos=True)
            for tokens, mode, more in (
                (short, "ar", {}),
                (long, "self_speculation", {"block_size": 6}),
                (long, "diffusion", {"block_size": 4, "threshold": 0.02}),
            )
        ]
        expected = [reference.generate(case).token_ids for case in cases]
        assert [answer.token_ids for answer in client.complete_all(cases)] == expected
        metrics = client.settled()
        for mode in MODES:
            assert metrics.forwards(mode) == reference.totals(cases, mode), mode
    log = server.log.read_text()
    assert "Using AttentionBackendEnum.CUSTOM backend" in log
    assert "operators by triton" in log
