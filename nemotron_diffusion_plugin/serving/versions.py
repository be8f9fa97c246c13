"""Whether the installed engine is one this plugin is written for."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version


def problem(engine: str, supported: str, installed: str) -> str | None:
    """Return why version `installed` of `engine` ("vLLM", "SGLang") cannot be used, or None when it can.

    Pre-releases, development and local builds count as the release they are built from.
    """
    base = Version(Version(installed).base_version)
    if base in SpecifierSet(supported):
        return None
    return (
        f"{engine} {installed} is installed, but this version of nemotron_diffusion_plugin supports {engine} "
        f"{supported}"
    )
