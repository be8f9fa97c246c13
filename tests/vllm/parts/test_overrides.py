"""Every class of ours fits the class of vLLM that it derives from, and is checked where it is made."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM

from nemotron_diffusion_plugin.serving.overrides import engine_classes, is_checked, override_problems
from nemotron_diffusion_plugin.vllm.model import (
    NemotronLabsDiffusionAttention,
    NemotronLabsDiffusionForCausalLM,
)

pytestmark = pytest.mark.engine

CLASSES = engine_classes("nemotron_diffusion_plugin.vllm")


def test_every_class_is_checked() -> None:
    assert [cls.__name__ for cls in CLASSES if not is_checked(cls)] == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_installed_vllm_has_what_is_overridden(cls: type) -> None:
    assert override_problems(cls) == []


def test_a_method_that_vllm_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LlamaForCausalLM, "load_weights")
    [problem] = override_problems(NemotronLabsDiffusionForCausalLM)
    assert "NemotronLabsDiffusionForCausalLM.load_weights: expected a method of vllm." in problem


def test_a_signature_that_vllm_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, positions: Any, hidden_states: Any, scale: Any) -> None: ...

    monkeypatch.setattr(LlamaAttention, "forward", forward)
    [problem] = override_problems(NemotronLabsDiffusionAttention)
    assert (
        "LlamaAttention.forward(positions, hidden_states, scale), found (positions, hidden_states)" in problem
    )


def test_a_method_that_vllm_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_place_lora", lambda self, lora: None, raising=False)
    [problem] = override_problems(NemotronLabsDiffusionForCausalLM)
    assert "LlamaForCausalLM._place_lora; mark the override or rename ours" in problem
