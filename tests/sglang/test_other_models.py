"""With the plugin installed, a model that is not ours is served as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.common.cases import Case
from tests.common.llama import write_llama
from tests.engines.sglang.launch import Server
from tests.sglang.client import Client

pytestmark = [pytest.mark.engine, pytest.mark.long]

CPU_PLUGIN = "sglang_on_cpu"
OUR_PLUGIN = "nemotron_diffusion"
CHANGING = {
    *(
        "port",
        "nccl_port",
        "startup_time",
        "internal_states",
        "launch_command",
        "random_seed",
        "dist_init_addr",
    ),
    *("max_total_num_tokens", "scheduler_info", "version"),
}


def serve(folder: Path, log: Path, plugins: str) -> tuple[list[list[int]], dict[str, Any], str]:
    options = ("--context-length", "256", "--skip-tokenizer-init")
    with Server(folder, *options, log=log, variables={"SGLANG_PLUGINS": plugins}) as server:
        client = Client(server.url, str(folder))
        tokens = []
        for n in range(6):
            body = client.body(Case([5 + n, 9, 2 * n, 30], 40, {"decoding_mode": "none of ours"}, True))
            reply = client.post(body)
            assert reply.status_code == 200, reply.text
            tokens.append(reply.json()["output_ids"])
        info = client.http.get("/server_info").json()
        names = client.http.get("/metrics/").text
    return tokens, {name: value for name, value in info.items() if name not in CHANGING}, names


def test_llama_is_served_as_without_the_plugin(tmp_path: Path) -> None:
    """The same tokens and the same settings; options of ours mean nothing there."""
    write_llama(tmp_path / "model")
    without = serve(tmp_path / "model", tmp_path / "without.log", CPU_PLUGIN)
    beside = serve(tmp_path / "model", tmp_path / "beside.log", f"{CPU_PLUGIN},{OUR_PLUGIN}")
    assert beside[0] == without[0]
    assert len({tuple(tokens) for tokens in beside[0]}) == 6
    assert beside[1] == without[1]
    assert beside[1]["speculative_algorithm"] is None
    assert "nemotron_diffusion" not in beside[2]
