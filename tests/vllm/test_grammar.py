"""What a grammar refuses is heard where the worker sees no grammars."""

from __future__ import annotations

import pytest

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from tests.served.inside import Inside

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_what_a_grammar_refuses_is_heard(inside: Inside, scheduling: str) -> None:
    """Drafting soon stops; vLLM cuts off what is refused before it is verified."""
    result = inside.run("refused", str(BUNDLED_CHECKPOINT), scheduling, VLLM_CPU_ASYNC_SCHEDULING="1")
    assert result["scheduler"].lower().startswith(scheduling)
    assert set(result["text"]) <= set("xq ")
    ar, *_, whole = (count for count in result["decisions"] if count)
    assert ar > whole
    forwards = result["forwards"]
    assert 0 < forwards["draft"] < forwards["verify"] / 2
