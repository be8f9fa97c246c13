"""`--additional-config` and the options of a request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError
from nemotron_diffusion_plugin.vllm.settings import ServerSettings


@pytest.mark.parametrize("config", [None, {}, {"another_plugin": 1}, "not a mapping"])
def test_defaults(config: object) -> None:
    settings = ServerSettings.read(32, config)
    assert settings.defaults == DecodingOptions(block_size=32)
    assert settings.defaults.decoding_mode is DecodingMode.SELF_SPECULATION
    assert settings.denoise_forwards >= 1


def test_server_options_are_a_requests_defaults() -> None:
    settings = ServerSettings.read(
        16, {"decoding_mode": "diffusion", "threshold": 0.5, "denoise_forwards_per_step": 5, "other": []}
    )
    assert settings.denoise_forwards == 5
    request = SimpleNamespace(extra_args={"block_size": 8})
    options = settings.options(request)
    assert (options.decoding_mode, options.threshold, options.block_size) == (DecodingMode.DIFFUSION, 0.5, 8)
    for empty in (None, {}):
        assert settings.options(SimpleNamespace(extra_args=empty)) == settings.defaults


def test_engine_arguments_are_not_options() -> None:
    """vLLM passes its own arguments the same way."""
    settings = ServerSettings.read(32, None)
    assert settings.options(SimpleNamespace(extra_args={"kv_transfer_params": {"a": 1}})) == settings.defaults


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"threshold": 2}, r"'threshold': got 2, expected a number in \(0, 1\]"),
        ({"block_size": 33}, "'block_size': got 33, expected an integer in 1 to 32"),
        ({"decoding_mode": "x"}, "'decoding_mode': got 'x'"),
        ({"denoise_forwards_per_step": 0}, "'denoise_forwards_per_step': got 0, expected an integer >= 1"),
        ({"denoise_forwards_per_step": True}, "got True"),
        ({"denoise_forwards_per_step": 1.5}, "got 1.5"),
    ],
)
def test_bad_configuration(config: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ServerSettings.read(32, config)
