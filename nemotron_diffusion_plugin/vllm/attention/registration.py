"""Offers `--attention-backend CUSTOM`; what it does is in `backend.py`."""

from __future__ import annotations

import logging

NAME = "CUSTOM"
"""vLLM's name for the one backend that a plugin may bring."""
BACKEND_CLASS = "nemotron_diffusion_plugin.vllm.attention.backend.BlockAttentionBackend"

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


def register() -> None:
    """Make the backend a choice of vLLM's flag, unless another plugin has the name; nothing chooses it by itself."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    custom = AttentionBackendEnum[NAME]
    if custom.is_overridden() and custom.get_path() != BACKEND_CLASS:
        logger.warning(
            "--attention-backend %s is %s, which another plugin has registered; block attention is not offered",
            NAME,
            custom.get_path(),
        )
        return
    register_backend(custom, BACKEND_CLASS)
