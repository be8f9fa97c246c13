"""The vLLM plugin: everything that knows vLLM lives in this folder.

`register` is the `vllm.general_plugins` entry point. vLLM calls it in the API server, the engine core, every worker
and the model-inspection process, so it only registers names; their modules load when the model is used.
"""

from __future__ import annotations


def register() -> None:
    """Register the config, the model class, the serving defaults and the patches with vLLM. Safe to call again."""
    from nemotron_diffusion_plugin.vllm.registration import register_all

    register_all()


def diagnose() -> list[tuple[str, bool, str]]:
    """Check that every registration is in place: (what, is it right, detail), one row each."""
    from nemotron_diffusion_plugin.vllm.registration import diagnose_all

    return diagnose_all()
