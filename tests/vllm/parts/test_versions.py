"""Which vLLM the plugin accepts, and what it does with another one."""

from __future__ import annotations

import logging

import pytest

from nemotron_diffusion_plugin.vllm import versions


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.1rc1", "0.32.5.dev3+g12ab"])
def test_supported(version: str) -> None:
    assert versions.problem(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33.0rc1", "1.0.0"])
def test_unsupported_names_both_versions(version: str) -> None:
    message = versions.problem(version)
    assert message is not None
    assert version in message
    assert versions.SUPPORTED in message


@pytest.mark.engine
def test_nothing_is_touched_under_another_version(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("vllm")
    from nemotron_diffusion_plugin.vllm import registration

    applied: list[str] = []
    monkeypatch.setattr(versions, "problem", lambda: "vLLM 9 is installed")
    monkeypatch.setattr(registration, "engine_patches", lambda: applied.append("asked"))
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, "vllm.nemotron_diffusion_plugin"):
        registration.register_all()
    assert applied == []
    assert "vLLM 9 is installed" in caplog.text
