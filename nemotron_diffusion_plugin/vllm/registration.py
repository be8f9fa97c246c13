"""What vLLM has to know about the model, and the check that it knows it."""

from __future__ import annotations

import logging

from nemotron_diffusion_patches import Patch
from nemotron_diffusion_patches.vllm import (
    async_scheduling,
    lookahead_slots,
    sampling_parameters,
    speculator_factory,
)
from nemotron_diffusion_plugin.model import config
from nemotron_diffusion_plugin.serving import ARCHITECTURE
from nemotron_diffusion_plugin.vllm import MODEL_CLASS, versions
from nemotron_diffusion_plugin.vllm.attention import registration as attention_backend
from nemotron_diffusion_plugin.vllm.identity import (
    SPECULATIVE_METHOD,
    is_block_speculator,
    uses_block_speculator,
)

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


def engine_patches() -> list[Patch]:
    """The patches every process needs, in the order in which they are applied."""
    return [
        lookahead_slots.patch(uses_block_speculator),
        async_scheduling.patch(SPECULATIVE_METHOD),
        speculator_factory.patch(uses_block_speculator, _make_speculator),
        sampling_parameters.patch(is_block_speculator),
    ]


def _make_speculator(*arguments: object) -> object:
    from nemotron_diffusion_plugin.vllm.worker.speculator import BlockSpeculator

    return BlockSpeculator(*arguments)  # type: ignore[arg-type]


def register_all() -> None:
    """Register with transformers and vLLM; outside the supported versions warn and leave the engine as it is."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from nemotron_diffusion_plugin.vllm.front.defaults import ServingDefaults

    config.register()
    problem = versions.problem()
    if problem is not None:
        logger.warning("%s; %s will not be served, other models are not affected.", problem, ARCHITECTURE)
        return
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, MODEL_CLASS)
    MODELS_CONFIG_MAP[ARCHITECTURE] = ServingDefaults
    attention_backend.register()
    for patch in engine_patches():
        patch.apply()


def diagnose_all() -> list[tuple[str, bool, str]]:
    """Rows for `nemotron-diffusion doctor`: the version, the registrations and each patch."""
    import vllm
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    problem = versions.problem()
    rows = [
        ("vLLM version", problem is None, problem or f"{vllm.__version__} (supported: {versions.SUPPORTED})")
    ]
    known = config.NemotronLabsDiffusionConfig.model_type in CONFIG_MAPPING
    rows.append(("config class", known, "registered with transformers" if known else "not registered"))
    served = ARCHITECTURE in ModelRegistry.get_supported_archs()
    rows.append(("model class", served, MODEL_CLASS if served else "not registered"))
    defaults = ARCHITECTURE in MODELS_CONFIG_MAP
    rows.append(("serving defaults", defaults, "registered" if defaults else "not registered"))
    rows.extend((f"patch {p.name}", p.is_applied(), p.reason) for p in engine_patches())
    return rows


def summary() -> str:
    """One line for the log at start: which patches are active."""
    active = [p.name for p in engine_patches() if p.is_applied()]
    return f"patches active: {', '.join(active)}"
