"""What differs between versions of SGLang, and whether the installed one is supported."""

from __future__ import annotations

from nemotron_diffusion_patches.sglang import SUPPORTED
from nemotron_diffusion_plugin.serving import versions


def problem(installed: str | None = None) -> str | None:
    """Return why the installed SGLang (or the version given) cannot be used, or None when it can."""
    if installed is None:
        from sglang import version

        installed = version.__version__
    return versions.problem("SGLang", SUPPORTED, installed)
