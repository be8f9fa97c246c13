"""Doctor's checks of the machine: versions, entry points, GPU and what is registered with vLLM and SGLang."""

import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

from nemotron_diffusion_plugin import __version__
from nemotron_diffusion_plugin.tools.extras import how_to_install, is_installed, missing

Row = tuple[str, bool, str]
"""What was checked, whether it is right, and the detail to show."""

_REQUIRED = ("torch", "transformers", "safetensors", "tokenizers")
_ENGINES = ("vllm", "sglang")
_ENTRY_POINTS = {
    "vllm.general_plugins": ("nemotron_diffusion", "nemotron_diffusion_plugin.vllm:register"),
    "sglang.srt.plugins": ("nemotron_diffusion", "nemotron_diffusion_plugin.sglang:register"),
    "console_scripts": ("nemotron-diffusion", "nemotron_diffusion_plugin.tools.cli:app"),
}


def installation() -> list[Row]:
    """Versions, entry points and the GPU; an engine that is not installed is not a fault."""
    rows: list[Row] = [
        ("python", True, platform.python_version()),
        ("nemotron-diffusion-plugin", True, __version__),
    ]
    for name in _REQUIRED:
        version = _version(name) if is_installed(name) else None
        rows.append((name, version is not None, version or missing(name)))
    rows += [(name, True, _version(name) or "not installed") for name in _ENGINES]
    rows += [_entry_point(group, *expected) for group, expected in _ENTRY_POINTS.items()]
    rows.append(_gpu())
    return rows


def vllm() -> list[Row]:
    """Register the plugin with an installed vLLM and ask it what is in place."""

    def register() -> Any:
        from nemotron_diffusion_plugin import vllm as plugin

        plugin.register()
        return plugin

    return _registrations("vllm", register)


def sglang() -> list[Row]:
    """Register the plugin with an installed SGLang, put its hooks in place as SGLang does, and ask what is in place."""

    def register() -> Any:
        from sglang.srt.plugins.hook_registry import HookRegistry

        from nemotron_diffusion_plugin import sglang as plugin

        plugin.register()
        HookRegistry.apply_hooks()
        return plugin

    return _registrations("sglang", register)


def _registrations(engine: str, register: Callable[[], Any]) -> list[Row]:
    if not is_installed(engine):
        return [(engine, True, "not installed, nothing to check")]
    try:
        return [*register().diagnose(), _overrides(engine)]
    except Exception as error:  # any engine failure is a finding to show, not a crash of the doctor
        return [("registration", False, f"{type(error).__name__}: {error}")]


def _overrides(engine: str) -> Row:
    from nemotron_diffusion_plugin.serving.overrides import OverrideError, engine_classes, is_checked

    try:
        classes = engine_classes(f"nemotron_diffusion_plugin.{engine}")
    except OverrideError as error:
        return "overrides", False, str(error)
    fitting = sum(map(is_checked, classes))
    return "overrides", True, f"{fitting} classes fit those of the engine that they derive from"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _entry_point(group: str, name: str, target: str) -> Row:
    found = [point.value for point in metadata.entry_points(group=group, name=name)]
    label = f"entry point {group}"
    if not found:
        return label, False, f"{name} is missing, install the package: {how_to_install()}"
    return label, found[0] == target, f"{name} = {found[0]}"


def _gpu() -> Row:
    if not is_installed("torch"):
        return "GPU", True, "unknown without torch"
    try:
        import torch
    except (ImportError, OSError) as error:  # one for another CUDA, or a part of it
        return "GPU", False, f"torch cannot be imported: {error}"
    if not torch.cuda.is_available():
        return "GPU", True, "none, engines run on the CPU"
    free, total = torch.cuda.mem_get_info()
    return "GPU", True, f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
