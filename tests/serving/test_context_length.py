"""The context limit that the rotary embedding sets."""

from __future__ import annotations

import pytest

from nemotron_diffusion_plugin.serving.refusals import check_context_length

YARN = {"rope_type": "yarn", "original_max_position_embeddings": 1024, "factor": 1.5}


@pytest.mark.parametrize(
    ("flag", "name"), [("--max-model-len", "max_model_len"), ("--context-length", "context_length")]
)
def test_one_position_too_many(flag: str, name: str) -> None:
    check_context_length(YARN, 1536, flag)
    with pytest.raises(ValueError) as refused:
        check_context_length(YARN, 1537, flag)
    assert str(refused.value) == (
        f"{name}: got 1537, expected at most 1536, which is the checkpoint's "
        f"rope_parameters.original_max_position_embeddings times its factor; use {flag}"
    )


def test_other_frequencies_have_no_such_limit() -> None:
    check_context_length({"rope_type": "default", "rope_theta": 1e6}, 10**9, "--max-model-len")
