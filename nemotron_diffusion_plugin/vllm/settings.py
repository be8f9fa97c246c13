"""Where vLLM keeps the server's settings (`--additional-config`) and a request's options (`vllm_xargs`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.settings import SETTING_NAMES, ServerSettings

_OPTIONS = "_nemotron_diffusion_options"
_settings: dict[tuple[int, str], ServerSettings] = {}
_ENGINE_KEYS = frozenset({"kv_transfer_params", "ec_transfer_params"})


def server_settings(vllm_config: Any) -> ServerSettings:
    """Return the settings of an engine, read once in a process.

    Raises `OptionError` naming field, value and what is allowed.
    """
    raw = vllm_config.additional_config
    own = {name: raw[name] for name in SETTING_NAMES if name in raw} if isinstance(raw, Mapping) else {}
    block_size = vllm_config.model_config.hf_config.block_size
    key = block_size, repr(own)
    if key not in _settings:
        _settings[key] = ServerSettings.read(block_size, own)
    return _settings[key]


def request_options(settings: ServerSettings, sampling_params: Any) -> DecodingOptions:
    """Return the options of a request: its `vllm_xargs` over the server's defaults.

    They are read once in a process and kept on vLLM's own parameters. Raises `OptionError`; a request that passed
    admission never does.
    """
    options: DecodingOptions | None = getattr(sampling_params, _OPTIONS, None)
    if options is None:
        given = getattr(sampling_params, "extra_args", None) or {}
        options = settings.options({name: given[name] for name in given if name not in _ENGINE_KEYS})
        setattr(sampling_params, _OPTIONS, options)
    return options
