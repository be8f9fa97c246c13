"""Which vLLM the plugin accepts, and what it does with another one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from nemotron_diffusion_patches.vllm import async_scheduling, lookahead_slots
from nemotron_diffusion_plugin import vllm
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.serving.overrides import OverrideError
from nemotron_diffusion_plugin.vllm import versions


@pytest.mark.parametrize(
    "version", ["0.32.0", "0.32.1", "0.33.0", "0.32.0+cpu", "0.33.1rc1", "0.32.5.dev3+g12ab"]
)
def test_supported(version: str) -> None:
    assert versions.problem(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "0.34.0rc1", "1.0.0"])
def test_unsupported_names_both_versions(version: str) -> None:
    message = versions.problem(version)
    assert message is not None
    assert version in message
    assert versions.SUPPORTED in message


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registering changes nothing of vLLM's."""
    pytest.importorskip("vllm")
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from nemotron_diffusion_plugin.vllm import registration

    applied: list[str] = []
    monkeypatch.setattr(registration, "engine_patches", lambda: applied.append("asked"))
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    monkeypatch.delitem(ModelRegistry.models, TEXT.architecture, raising=False)
    monkeypatch.delitem(MODELS_CONFIG_MAP, TEXT.architecture, raising=False)
    yield
    assert applied == []
    assert TEXT.architecture not in ModelRegistry.models
    assert TEXT.architecture not in MODELS_CONFIG_MAP


@pytest.mark.engine
def test_nothing_is_touched_under_another_version(
    untouched: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nemotron_diffusion_plugin.vllm import registration

    monkeypatch.setattr(versions, "problem", lambda: "vLLM 9 is installed")
    with caplog.at_level(logging.WARNING, "vllm.nemotron_diffusion_plugin"):
        registration.register_all()
    assert "vLLM 9 is installed" in caplog.text


@pytest.mark.engine
def test_nothing_is_touched_where_an_override_does_not_fit(
    untouched: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Unfit(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise OverrideError("the plugin does not fit: Ours.run")

    package = "nemotron_diffusion_plugin.vllm.front"
    monkeypatch.setitem(sys.modules, package, Unfit(package))
    monkeypatch.delitem(sys.modules, f"{package}.defaults", raising=False)
    with caplog.at_level(logging.WARNING, "vllm.nemotron_diffusion_plugin"):
        vllm.register()
    served = f"{TEXT.architecture} will not be served, other models are not affected."
    assert f"the plugin does not fit: Ours.run; {served}" in caplog.text


@pytest.mark.parametrize(("installed", "needed"), [("0.32.5", True), ("0.33.0", False), ("0.33.1rc1", False)])
def test_a_patch_is_applied_in_the_versions_that_need_it(
    installed: str, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = pytest.importorskip("vllm")
    monkeypatch.setattr(engine, "__version__", installed)
    assert versions.needs(async_scheduling.ABOUT) is needed
    assert versions.needs(lookahead_slots.ABOUT), "one that all supported versions need"
