"""What only the worker of a GPU runs before it serves, run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_diffusion_plugin.options import DecodingMode
from tests.common.cases import Case, Reference
from tests.served.inside import Inside
from tests.vllm.inside import warm_up
from tests.vllm.inside.schedule import prompt_of

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "mode",
    [
        "auto",
        "diffusion",
        pytest.param("ar", marks=pytest.mark.long),
        pytest.param("self_speculation", marks=pytest.mark.long),
    ],
)
def test_what_a_gpu_runs_at_start(folder: Path, inside: Inside, reference: Reference, mode: str) -> None:
    """The profile run, uniform dummy runs and both warm-ups leave nothing behind, whatever the default mode is."""
    observed = inside.run("warm_up", str(folder), mode)
    assert observed["mixed"]
    assert observed["after"] == observed["fresh"]
    assert (observed["draft forwards"] > 0) is (mode != "ar")
    for number, each in enumerate(DecodingMode):
        case = Case(prompt_of(number), warm_up.MOST_TOKENS, {"decoding_mode": each.value}, ignore_eos=True)
        assert observed["tokens"][each.value] == reference.generate(case).token_ids, each
