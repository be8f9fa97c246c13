"""Where the settings and the options of a request come from in vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.settings import ENGINE_KEYS, request_options, server_settings


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


def test_flags_come_as_numbers() -> None:
    """JSON's true and false reach vLLM's requests as 1 and 0; other numbers are no flags."""
    settings = ServerSettings.read(16, None)
    options = request_options(settings, SimpleNamespace(extra_args={"draft_lora": 0, "return_counts": 1}))
    assert (options.draft_lora, options.return_counts) == (False, True)
    for wrong in (2, 1.0, "true"):
        with pytest.raises(OptionError, match="'draft_lora': got"):
            request_options(settings, SimpleNamespace(extra_args={"draft_lora": wrong}))


@pytest.mark.parametrize("name", sorted(ENGINE_KEYS))
def test_engine_arguments_are_not_options(name: str) -> None:
    """vLLM passes its own arguments the same way."""
    settings = ServerSettings.read(32, None)
    assert request_options(settings, SimpleNamespace(extra_args={name: {"a": 1}})) == settings.defaults
