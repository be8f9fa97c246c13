"""What differs between versions of vLLM, and whether the installed one is supported."""

from __future__ import annotations

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.vllm import SUPPORTED
from nemotron_diffusion_plugin.serving import versions


def needs(about: Description) -> bool:
    """Whether the installed vLLM needs a patch."""
    import vllm

    return versions.is_in(about.versions, vllm.__version__)


def problem(installed: str | None = None) -> str | None:
    """Return why the installed vLLM (or the version given) cannot be used, or None when it can."""
    if installed is None:
        import vllm

        installed = vllm.__version__
    return versions.problem("vLLM", SUPPORTED, installed)
