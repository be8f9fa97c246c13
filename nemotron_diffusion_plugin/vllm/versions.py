"""Whether the installed vLLM is one this plugin is written for."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from nemotron_diffusion_patches.vllm import SUPPORTED


def problem(installed: str | None = None) -> str | None:
    """Why the installed vLLM (or the version given) cannot be used, or None when it can."""
    if installed is None:
        import vllm

        installed = vllm.__version__
    base = Version(Version(installed).base_version)
    if base in SpecifierSet(SUPPORTED):
        return None
    return f"vLLM {installed} is installed, but this version of nemotron_diffusion_plugin supports vLLM {SUPPORTED}"
