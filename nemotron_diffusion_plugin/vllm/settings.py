"""Where vLLM keeps the server's settings (`--additional-config`) and a request's options (`vllm_xargs`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemotron_diffusion_plugin.options import FLAGS, OPTION_NAMES, DecodingOptions
from nemotron_diffusion_plugin.settings import SETTING_NAMES, ServerSettings

_OPTIONS = "_nemotron_diffusion_options"
_settings: dict[tuple[int, str], ServerSettings] = {}
ENGINE_KEYS = frozenset({"kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode", "session_id"})
"""The names in `vllm_xargs` that vLLM itself reads."""


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
        options = settings.options(own_options(getattr(sampling_params, "extra_args", None)))
        setattr(sampling_params, _OPTIONS, options)
    return options


def own_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the decoding options among what a request gives vLLM.

    vLLM's requests have no true and false there: JSON's come as 1 and 0.
    """
    own = {name: given[name] for name in OPTION_NAMES if name in given} if given else {}
    flags = {name: bool(own[name]) for name in FLAGS if type(own.get(name)) is int and own[name] in (0, 1)}
    return {**own, **flags}
