"""Whether the installed engine is one this plugin is written for."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version


def is_in(range_: str, installed: str) -> bool:
    """Whether a version lies in a range; pre-releases, development and local builds count as their release."""
    return Version(Version(installed).base_version) in SpecifierSet(range_)


def problem(engine: str, supported: str, installed: str) -> str | None:
    """Return why version `installed` of `engine` ("vLLM", "SGLang") cannot be used, or None when it can."""
    if is_in(supported, installed):
        return None
    return (
        f"{engine} {installed} is installed, but this version of nemotron_diffusion_plugin supports {engine} "
        f"{supported}"
    )
