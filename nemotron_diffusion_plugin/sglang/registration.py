"""What SGLang has to know about the model, and the check that it knows it."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_patches.sglang import (
    HookPatch,
    admission_check,
    cuda_graph_runner,
    finish_check,
    last_output,
    logits_rows,
    openai_parameters,
    request_rows,
    request_validation,
    response_counts,
    retraction,
    returned_tokens,
    waiting_requests,
    weights_from_disk,
    weights_from_tensor,
)
from nemotron_diffusion_patches.sglang import (
    span_attributes as span_attributes_patch,
)
from nemotron_diffusion_plugin.model import spec
from nemotron_diffusion_plugin.model.spec import ARCHITECTURES
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.request_counts import RESPONSE_KEY, span_attributes
from nemotron_diffusion_plugin.sglang import versions, weight_updates
from nemotron_diffusion_plugin.sglang.attention import registration as attention_backend
from nemotron_diffusion_plugin.sglang.front import admission, flags
from nemotron_diffusion_plugin.sglang.front.defaults import choose_algorithm
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM, is_ours
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.worker import counters

MODELS = "nemotron_diffusion_plugin.sglang.models"
FLAGS_TARGET = "sglang.srt.server_args.ServerArgs.add_cli_args"
RESOLUTION_STEP = "handle_missing_default_values"
"""The step after which the algorithm is selected: the model's path is known, nothing has been derived from it yet."""


def engine_patches() -> list[HookPatch]:
    """The patches every process needs."""
    return [
        *openai_parameters.patches(admission.changes_in_diffusion),
        request_validation.patch(admission.validate_tokenized),
        admission_check.patch(is_ours, admission.problem),
        retraction.patch(_give_back_seed),
        request_rows.patch(ALGORITHM),
        waiting_requests.patch(),
        finish_check.patch(),
        last_output.patch(_is_diffusion),
        returned_tokens.patch(_take_in),
        response_counts.patch(counters.for_responses),
        response_counts.patch_meta_info(RESPONSE_KEY),
        span_attributes_patch.patch(RESPONSE_KEY, span_attributes),
        cuda_graph_runner.patch(is_ours, _graph_runner),
        logits_rows.patch(is_ours, _logits_rows),
        weights_from_disk.patch(weight_updates.from_disk),
        weights_from_tensor.patch(weight_updates.from_tensor),
    ]


def register_all() -> None:
    """Register with transformers and SGLang; outside the supported versions warn and leave the engine as it is.

    Raises `OverrideError`, which SGLang logs; our model is refused then, here or by `check_in_place`.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    spec.register()
    problem = versions.problem()
    if problem is not None:
        served = ", ".join(ARCHITECTURES)
        logger.warning("%s; %s will not be served, other models are not affected.", problem, served)
        return
    _register_model()
    _register_algorithm()
    attention_backend.register()
    if not _has_flag():
        HookRegistry.register(FLAGS_TARGET, flags.add_flags, HookType.AFTER)
    for patch in engine_patches():
        patch.apply()


def _has_flag() -> bool:
    from sglang.srt.plugins.hook_registry import HookRegistry

    return any(hook is flags.add_flags for _, hook, _ in HookRegistry._hooks.get(FLAGS_TARGET, ()))


def _register_model() -> None:
    from sglang.srt.arg_groups.resolution_hooks import _HOOKS, register_resolution_hook
    from sglang.srt.models.registry import ModelRegistry, import_model_classes

    # `ModelRegistry.register` would import every model that SGLang knows, in every process.
    ModelRegistry.models.update(import_model_classes(MODELS, strict=True))
    if choose_algorithm not in _HOOKS.get(RESOLUTION_STEP, ()):
        register_resolution_hook(RESOLUTION_STEP)(choose_algorithm)


def _register_algorithm() -> None:
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
    from sglang.srt.speculative.spec_registry import get_spec

    from nemotron_diffusion_plugin.sglang.algorithm import BlockAlgorithm

    if get_spec(ALGORITHM) is not None:
        return

    @SpeculativeAlgorithm.register(ALGORITHM, supports_overlap=True, spec_class=BlockAlgorithm)
    def worker(server_args: Any) -> type:
        from nemotron_diffusion_plugin.sglang.worker.block_worker import BlockWorker

        return BlockWorker


def _give_back_seed(req: Any) -> None:
    if _is_diffusion(req):
        from nemotron_diffusion_plugin.sglang.worker.resume import give_back_seed

        give_back_seed(req)


def _take_in(reqs: list[Any]) -> list[Any]:
    """Count what requests return; those that wait for a block have nothing to stream."""
    counted, streamed = counters.of_process(), []
    for req in reqs:
        options = admission.options_of(req)
        if counted is not None and options is not None:
            counted.returned(req, options)
        diffusion = options is not None and options.decoding_mode is DecodingMode.DIFFUSION
        waits = diffusion and len(req.output_ids) <= req.send_token_offset
        if req.finished() or not waits:
            streamed.append(req)
    return streamed


def _is_diffusion(req: Any) -> bool:
    return admission.mode_of(req) is DecodingMode.DIFFUSION


def _graph_runner() -> type:
    from nemotron_diffusion_plugin.sglang.graphs.runner import BlockGraphRunner

    return BlockGraphRunner


def _logits_rows(model_runner: Any, rows: int) -> int:
    from nemotron_diffusion_plugin.sglang.graphs.runner import logits_rows

    return logits_rows(model_runner, rows)


def diagnose_all() -> list[tuple[str, bool, str]]:
    """Rows for `nemotron-diffusion doctor`: the version, the registrations and each patch."""
    from sglang.srt.arg_groups.resolution_hooks import _HOOKS
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.plugins.hook_registry import HookRegistry
    from sglang.srt.speculative.spec_registry import get_spec
    from sglang.version import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    problem, supported = versions.problem(), versions.SUPPORTED
    rows = [("SGLang version", problem is None, problem or f"{__version__} (supported: {supported})")]
    for what, is_there in (
        ("config class", all(each.model_type in CONFIG_MAPPING for each in spec.SPECS)),
        ("model class", set(ARCHITECTURES) <= ModelRegistry.models.keys()),
        ("serving defaults", choose_algorithm in _HOOKS.get(RESOLUTION_STEP, ())),
        ("speculative algorithm", get_spec(ALGORITHM) is not None),
        ("command-line flag", _has_flag() and FLAGS_TARGET in HookRegistry._patched),
    ):
        rows.append((what, is_there, "registered" if is_there else "not registered"))
    rows.extend((f"patch {patch.name}", patch.is_applied(), patch.reason) for patch in engine_patches())
    return rows


def check_in_place() -> None:
    """Raise RuntimeError naming what is missing: SGLang only logs what goes wrong while a plugin registers."""
    missing = [f"{what} ({detail})" for what, is_there, detail in diagnose_all() if not is_there]
    if missing:
        raise RuntimeError(
            f"{', '.join(ARCHITECTURES)} cannot be served, as the plugin is not in place: {'; '.join(missing)}. The "
            "log above says why; `nemotron-diffusion doctor` checks the installation."
        )
