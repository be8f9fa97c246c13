"""What vLLM has to know about the model, and the check that it knows it."""

from __future__ import annotations

from nemotron_diffusion_plugin.model import spec
from nemotron_diffusion_plugin.model.spec import ARCHITECTURES, TEXT
from nemotron_diffusion_plugin.vllm import versions
from nemotron_diffusion_plugin.vllm.attention import registration as attention_backend
from nemotron_diffusion_plugin.vllm.engine_patches import engine_patches
from nemotron_diffusion_plugin.vllm.log import logger

MODEL_CLASSES = {TEXT.architecture: "nemotron_diffusion_plugin.vllm.model:NemotronLabsDiffusionForCausalLM"}
"""The model class of each architecture, which vLLM imports when it serves one."""


def register_all() -> None:
    """Register with transformers and vLLM; outside the supported versions warn and leave the engine as it is.

    Raises `OverrideError` before vLLM is changed.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    spec.register()
    problem = versions.problem()
    if problem is not None:
        served = ", ".join(ARCHITECTURES)
        logger.warning("%s; %s will not be served, other models are not affected.", problem, served)
        return
    from nemotron_diffusion_plugin.vllm.front.defaults import ServingDefaults

    for architecture, model_class in MODEL_CLASSES.items():
        if architecture not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(architecture, model_class)
        MODELS_CONFIG_MAP[architecture] = ServingDefaults
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
    known = all(each.model_type in CONFIG_MAPPING for each in spec.SPECS)
    rows.append(("config class", known, "registered with transformers" if known else "not registered"))
    served = MODEL_CLASSES.keys() <= set(ModelRegistry.get_supported_archs())
    rows.append(("model class", served, ", ".join(MODEL_CLASSES.values()) if served else "not registered"))
    defaults = MODEL_CLASSES.keys() <= MODELS_CONFIG_MAP.keys()
    rows.append(("serving defaults", defaults, "registered" if defaults else "not registered"))
    rows.extend((f"patch {p.name}", p.is_applied(), p.reason) for p in engine_patches())
    return rows
