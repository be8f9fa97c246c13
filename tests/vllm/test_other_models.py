"""With the plugin installed, a model that is not ours is served as without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.llama import write_llama
from tests.served.inside import Inside

pytestmark = pytest.mark.engine

CPU_PLUGIN = "triton_on_cpu"
OUR_PLUGIN = "nemotron_diffusion"


def test_llama_is_served_as_without_the_plugin(tmp_path: Path, inside: Inside) -> None:
    write_llama(tmp_path)
    without = inside.run("other_model", str(tmp_path), VLLM_PLUGINS=CPU_PLUGIN)
    beside = inside.run("other_model", str(tmp_path), VLLM_PLUGINS=f"{CPU_PLUGIN},{OUR_PLUGIN}")
    assert without.pop("ours") == []
    assert "nemotron_diffusion_plugin.vllm.registration" in beside.pop("ours")
    assert beside == without
    assert len({tuple(tokens) for tokens in beside["tokens"]}) == len(beside["tokens"])
    assert beside["speculative"] == beside["speculator"] == "None"
