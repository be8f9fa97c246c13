"""Offers `--attention-backend cpu_ref`: attention in plain torch that can verify drafts.

SGLang 0.5.23 has two attention backends for a CPU: one needs compiled kernels that are not published, the other
cannot verify drafts. This one can, with rows of different widths in one forward and with bidirectional layers.
Beside that it masks logits on a CPU for `--enable-strict-thinking`.
It is not installed: `tests/engines/install.py` lets this checkout's environment find its folder, and
`tests/engines/sglang/launch.py` puts it on PYTHONPATH.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["NAME", "register"]
NAME = "cpu_ref"


def register() -> None:
    """SGLang plugin entry point: register the backend. Does nothing without SGLANG_USE_CPU_ENGINE=1."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") != "1":
        return
    from sglang.srt.arg_groups.choices import (
        add_attention_backend_choices,
        add_draft_attention_backend_choices,
    )
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    add_attention_backend_choices([NAME])
    add_draft_attention_backend_choices([NAME])
    register_attention_backend(NAME)(_create)
    HookRegistry.register(
        "sglang.srt.speculative.draft_utils.DraftBackendFactory._create_backend",
        _offer_to_draft_models,
        HookType.AROUND,
    )
    HookRegistry.register(
        "sglang.srt.constrained.xgrammar_backend.XGrammarGrammarBackend.apply_vocab_mask",
        _apply_vocab_mask,
        HookType.REPLACE,
    )


def _apply_vocab_mask(logits: Any, vocab_mask: Any) -> None:
    """What a request without a grammar of its own is held to while it thinks; SGLang has it for accelerators only."""
    from xgrammar import apply_token_bitmask_inplace

    apply_token_bitmask_inplace(logits, vocab_mask, backend="cpu")


def _create(runner: Any) -> Any:
    from sglang_on_cpu.backend import ReferenceBackend

    return ReferenceBackend(runner)


def _offer_to_draft_models(
    original: Callable[..., Any],
    factory: Any,
    backend_name: str,
    backend_map: dict[str, Callable[[], tuple[str, Any]]],
    *rest: Any,
    **options: Any,
) -> Any:
    """Add this backend to those that SGLang's speculators know for their draft models."""

    def create() -> tuple[str, Any]:
        from sglang_on_cpu.backend import MultiStepDraftBackend

        runner = factory.draft_model_runner
        if backend_name == "decode_attention_backend":
            return NAME, MultiStepDraftBackend(runner, factory.topk, factory.speculative_num_steps)
        return NAME, _create(runner)

    return original(factory, backend_name, {**backend_map, NAME: create}, *rest, **options)
