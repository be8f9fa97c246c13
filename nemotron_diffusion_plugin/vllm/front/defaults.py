"""What a plain `vllm serve MODEL` is given: the speculator, the scheduler, the admission check."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from typing_extensions import override
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from nemotron_diffusion_patches.vllm import request_validation, response_counts, tool_constraints
from nemotron_diffusion_patches.vllm import span_attributes as span_attributes_patch
from nemotron_diffusion_plugin.auto.requests import describe
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.kernel_choice import check_kernels
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.refusals import (
    check_context_length,
    refuse_processors_in_diffusion,
    say_what_diffusion_does_without,
)
from nemotron_diffusion_plugin.serving.request_counts import RESPONSE_KEY, span_attributes
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.engine_patches import summary
from nemotron_diffusion_plugin.vllm.front import admission, metrics
from nemotron_diffusion_plugin.vllm.identity import (
    SPECULATIVE_METHOD,
    SPECULATOR_CLASS,
    device_name,
    uses_block_speculator,
)
from nemotron_diffusion_plugin.vllm.log import logger
from nemotron_diffusion_plugin.vllm.settings import server_settings

PROCESSORS_GROUP = "vllm.logits_processors"
SCHEDULER_PATH = "nemotron_diffusion_plugin.vllm.core.scheduler.make_scheduler"


@checked_overrides
class ServingDefaults(VerifyAndUpdateConfig):
    """Serving defaults of the architecture; what the user set explicitly stays."""

    @classmethod
    @override
    def verify_and_update_config(cls, vllm_config: Any) -> None:
        """Set up block drafting unless the user brought another speculator.

        Raises `OptionError` for a bad `--additional-config` and ValueError for an engine set-up that cannot work.
        """
        model_config = vllm_config.model_config
        if model_config.runner_type != "generate":
            return
        check_context_length(
            model_config.hf_config.rope_parameters, model_config.max_model_len, "--max-model-len"
        )
        if vllm_config.load_config.load_format == "auto":
            vllm_config.load_config.load_format = "safetensors"  # auto falls back on pickle files
        settings = server_settings(vllm_config)
        settings.check_load_format(str(vllm_config.load_config.load_format))
        if vllm_config.speculative_config is None and settings.block_size > 1:
            vllm_config.speculative_config = _speculative_config(vllm_config, settings)
        ours = uses_block_speculator(vllm_config)
        _configure_admission(vllm_config, settings, only_ar=not ours)
        request_validation.patch(
            admission.validate_openai_request, admission.validate_request, admission.validate_beam_search
        ).apply()
        tool_constraints.patch(admission.constrains_tool_calls).apply()
        response_counts.patch(RESPONSE_KEY).apply()
        span_attributes_patch.patch(RESPONSE_KEY, span_attributes).apply()
        processors = list(model_config.logits_processors or [])
        if admission.ADMISSION_PATH not in processors:
            model_config.logits_processors = [*processors, admission.ADMISSION_PATH]
        if ours:
            _prepare_engine(vllm_config, settings)
            metrics.export(vllm_config, settings.auto_blocks)
            logger.info(
                "Nemotron-Labs-Diffusion: default mode %s, block %d, %s; %s",
                settings.defaults.decoding_mode.value,
                settings.defaults.block_size,
                describe(settings, device_name()),
                summary(),
            )


def _configure_admission(vllm_config: Any, settings: ServerSettings, only_ar: bool) -> None:
    """Tell the admission check about this server; raises `OptionError` where its default mode cannot work."""
    model_config = vllm_config.model_config
    processors = _user_processors(model_config)
    defaults = model_config.get_diff_sampling_param()
    if not only_ar:
        if settings.defaults.decoding_mode is DecodingMode.DIFFUSION:
            refuse_processors_in_diffusion(processors, settings.defaults)
        say_what_diffusion_does_without(defaults, logger)
    admission.configure(settings, only_ar, processors, defaults)


def _user_processors(model_config: Any) -> list[str]:
    """The names of the logits processors that vLLM loads beside ours, by flag and from installed packages."""
    named = [each for each in model_config.logits_processors or () if each != admission.ADMISSION_PATH]
    installed = entry_points(group=PROCESSORS_GROUP)
    return [each.value for each in installed] + [
        each if isinstance(each, str) else each.__qualname__ for each in named
    ]


def _speculative_config(vllm_config: Any, settings: ServerSettings) -> Any:
    from vllm.config import SpeculativeConfig

    synthetic: dict[str, Any] = {}
    if settings.synthetic_acceptance is not None:
        synthetic = {
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_length": settings.synthetic_acceptance,
        }
    speculative = SpeculativeConfig(
        target_model_config=vllm_config.model_config,
        target_parallel_config=vllm_config.parallel_config,
        method="custom_class",
        model=SPECULATOR_CLASS,
        num_speculative_tokens=settings.block_size - 1,
        **synthetic,
    )
    # A name of its own keeps every other custom_class speculator out of our patches.
    speculative.method = SPECULATIVE_METHOD
    return speculative


def _prepare_engine(vllm_config: Any, settings: ServerSettings) -> None:
    _refuse_unsupported(vllm_config, settings)
    check_kernels(settings.kernels, vllm_config.device_config.device_type)
    if not vllm_config.use_v2_model_runner:
        raise ValueError(
            "Nemotron-Labs-Diffusion needs vLLM's model runner V2, which needs Triton. On a CPU start it with "
            "`make serve` (docs/structure.md says why); otherwise unset VLLM_USE_V2_MODEL_RUNNER."
        )
    scheduler_config = vllm_config.scheduler_config
    scheduler_config.scheduler_cls = SCHEDULER_PATH
    vllm_config.attention_config.use_non_causal = True
    rows = scheduler_config.max_num_seqs * settings.defaults.block_size
    drafting = settings.defaults.decoding_mode in (DecodingMode.DIFFUSION, DecodingMode.SELF_SPECULATION)
    if drafting and rows > scheduler_config.max_num_batched_tokens:
        logger.warning(
            "max_num_batched_tokens=%d is less than max_num_seqs=%d times the block of %d: under full load some "
            "requests wait for others. Raise --max-num-batched-tokens to %d or lower --max-num-seqs.",
            scheduler_config.max_num_batched_tokens,
            scheduler_config.max_num_seqs,
            settings.defaults.block_size,
            rows,
        )


def _refuse_unsupported(vllm_config: Any, settings: ServerSettings) -> None:
    """Raise ValueError for engine set-ups in which drafts would be wrong."""
    parallel, budget = vllm_config.parallel_config, vllm_config.scheduler_config.max_num_batched_tokens
    for name in (
        "pipeline_parallel_size",
        "decode_context_parallel_size",
        "prefill_context_parallel_size",
    ):
        size = getattr(parallel, name)
        if size > 1:
            raise ValueError(
                f"{name}: got {size}, expected 1: a draft forward needs the whole model and the whole context on one "
                "rank; use --tensor-parallel-size"
            )
    if parallel.enable_batch_sharded_sampling:
        raise ValueError(
            "enable_batch_sharded_sampling: got True, expected False: every rank must see all tokens"
        )
    if vllm_config.lora_config is not None:
        raise ValueError(
            "enable_lora: got True, expected False: requests cannot bring adapters of their own yet"
        )
    scheduler = vllm_config.scheduler_config.scheduler_cls
    if scheduler not in (None, SCHEDULER_PATH):
        raise ValueError(
            f"scheduler_cls: got {scheduler!r}, expected none: only the plugin's own scheduler knows which requests "
            "wait for a block"
        )
    if budget < settings.block_size:
        raise ValueError(
            f"max_num_batched_tokens: got {budget}, expected at least the model's block size, {settings.block_size}"
        )
