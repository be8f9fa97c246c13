"""Offers `--attention-backend nemotron_block`; what it does is in `backend.py`."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.sglang.attention import NAME


def register() -> None:
    """Make the backend a choice of SGLang's flags; nothing chooses it by default."""
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES, add_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    if NAME not in ATTENTION_BACKEND_CHOICES:
        add_attention_backend_choices([NAME])
    register_attention_backend(NAME)(_create)


def _create(runner: Any) -> Any:
    from nemotron_diffusion_plugin.sglang.attention.backend import BlockAttentionBackend

    return BlockAttentionBackend(runner)
