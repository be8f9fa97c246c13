"""Where the settings and the options of a request come from in vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.settings import request_options, server_settings


def engine(additional_config: object) -> Any:
    model_config = SimpleNamespace(hf_config=SimpleNamespace(block_size=16))
    return SimpleNamespace(model_config=model_config, additional_config=additional_config)


@pytest.mark.parametrize("config", [None, {}, {"another_plugin": 1}, "not a mapping"])
def test_defaults(config: object) -> None:
    assert server_settings(engine(config)) == ServerSettings.read(16, None)


def test_additional_config_sets_them() -> None:
    raw = {"threshold": 0.5, "denoise_forwards_per_step": 5, "other": []}
    assert server_settings(engine(raw)) == ServerSettings.read(16, raw) != ServerSettings.read(16, None)


def test_request_options() -> None:
    settings = ServerSettings.read(16, {"threshold": 0.5})
    options = request_options(settings, SimpleNamespace(extra_args={"block_size": 8}))
    assert (options.threshold, options.block_size) == (0.5, 8)
    for params in (SimpleNamespace(), SimpleNamespace(extra_args=None), SimpleNamespace(extra_args={})):
        assert request_options(settings, params) == settings.defaults


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
def test_engine_arguments_are_not_options(name: str) -> None:
    """vLLM passes its own arguments the same way."""
    settings = ServerSettings.read(32, None)
    assert request_options(settings, SimpleNamespace(extra_args={name: {"a": 1}})) == settings.defaults
