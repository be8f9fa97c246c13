"""What a plain `launch_server --model` is given, and the set-ups in which drafts would be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nemotron_diffusion_plugin.model.spec import is_served
from nemotron_diffusion_plugin.serving.kernel_choice import check_kernels
from nemotron_diffusion_plugin.serving.refusals import check_context_length, say_what_diffusion_does_without
from nemotron_diffusion_plugin.sglang.front import admission
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.settings import settings_of


def choose_algorithm(server_args: Any, previous: Callable[[Any], None]) -> None:
    """Wrap a step of SGLang's resolution of arguments: select our algorithm for our architecture.

    An algorithm that the user named stays. Raises `OptionError` for bad server defaults and ValueError for a context
    past the rotations or another number of draft tokens than the model's block.
    """
    from sglang.srt.arg_groups.model_override_base import (
        is_attention_backend_not_set,
        model_config_of,
        resolving_view,
    )
    from sglang.srt.arg_groups.overrides import declare_resolution
    from sglang.srt.runtime_context import get_platform

    previous(server_args)
    given, model_config = resolving_view(server_args), model_config_of(server_args)
    hf_config = model_config.hf_config
    admission.configure(None)
    if not is_served(hf_config) or given.is_embedding:
        return
    settings = settings_of(hf_config)
    if given.device is not None:
        check_kernels(settings.kernels, given.device)
    settings.check_load_format(str(given.load_format))
    check_context_length(hf_config.rope_parameters, model_config.context_len, "--context-length")
    if given.load_format == "auto":  # which falls back on pickle files
        declare_resolution(server_args, "nemotron_diffusion", load_format="safetensors")
    if given.speculative_algorithm not in (None, ALGORITHM):
        return
    if given.speculative_num_draft_tokens not in (None, settings.block_size):
        raise ValueError(
            f"speculative_num_draft_tokens: got {given.speculative_num_draft_tokens}, expected {settings.block_size}, "
            "the model's block size; choose smaller blocks with the option block_size"
        )
    if is_attention_backend_not_set(given) and get_platform().is_sm100:
        # SGLang's default there, trtllm_mha, takes the width of every block from the server's arguments.
        declare_resolution(server_args, "nemotron_diffusion", attention_backend="triton")
    declare_resolution(
        server_args,
        "nemotron_diffusion",
        speculative_algorithm=ALGORITHM,
        speculative_num_draft_tokens=settings.block_size,
        speculative_num_steps=1,
        speculative_eagle_topk=1,
        enable_mixed_chunk=False,
    )
    admission.configure(settings)
    preferred = given.preferred_sampling_params or {}
    preferred = json.loads(preferred) if isinstance(preferred, str) else preferred  # as on the command line
    say_what_diffusion_does_without({**model_config.get_default_sampling_params(), **preferred}, logger)
    logger.info(
        "Nemotron-Labs-Diffusion: default mode %s, block %d",
        settings.defaults.decoding_mode.value,
        settings.defaults.block_size,
    )


def refuse_unsupported(server_args: Any) -> None:
    """Raise ValueError for engine set-ups in which drafts would be wrong."""
    for name, expected, reason in (
        ("pp_size", 1, "a draft forward needs the whole model on one rank; use --tp-size"),
        ("enable_dp_attention", False, "every rank must see all tokens; use --tp-size or several servers"),
        ("tokenizer_worker_num", 1, "SGLang's further front-end processes load no plugins"),
        ("enable_lora", False, "requests cannot bring adapters of their own yet"),
        ("enable_pdmux", False, "prefill and blocks share one set of attention buffers"),
        ("enable_two_batch_overlap", False, "a block cannot be split over two batches"),
        ("enable_watermark", False, "SGLang's watermark is in its own sampler, which draws no block"),
        ("disaggregation_mode", "null", "blocks are drafted where the prompt was prefilled"),
    ):
        value = getattr(server_args, name, expected)
        if value not in (expected, None):
            raise ValueError(f"{name}: got {value!r}, expected {expected!r}: {reason}")
    if getattr(server_args, "grammar_backend", None) == "outlines":
        raise ValueError(
            "grammar_backend: got 'outlines', expected 'xgrammar' or 'llguidance': SGLang's outlines grammars cannot "
            "take back a draft"
        )
