"""The vLLM plugin: everything that knows vLLM lives in this folder.

`register` is the `vllm.general_plugins` entry point. vLLM calls it in the API server, the engine core, every worker
and the model-inspection process, so it only registers names; their modules load when the model is used.
"""

from __future__ import annotations

import logging

from nemotron_diffusion_plugin.serving.overrides import OverrideError


def register() -> None:
    """Register the config, the model class, the serving defaults and the patches with vLLM. Safe to call again.

    A class of ours that does not fit the installed vLLM is logged: an error would end the servers of other models too.
    """
    try:
        from nemotron_diffusion_plugin.vllm.registration import register_all

        register_all()
    except OverrideError as error:
        from nemotron_diffusion_plugin.model.spec import ARCHITECTURES

        logger = logging.getLogger("vllm.nemotron_diffusion_plugin")
        served = ", ".join(ARCHITECTURES)
        logger.error("%s; %s will not be served, other models are not affected.", error, served)


def diagnose() -> list[tuple[str, bool, str]]:
    """Check that every registration is in place: (what, is it right, detail), one row each."""
    from nemotron_diffusion_plugin.vllm.registration import diagnose_all

    return diagnose_all()
