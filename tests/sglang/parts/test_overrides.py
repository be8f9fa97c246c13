"""Every class of ours fits the class of SGLang that it derives from, and is checked where it is made."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sglang")

from sglang.srt.models.llama import LlamaAttention
from sglang.srt.speculative.spec_registry import CustomSpecAlgo

from nemotron_diffusion_plugin.serving.overrides import engine_classes, is_checked, override_problems
from nemotron_diffusion_plugin.sglang.algorithm import BlockAlgorithm
from nemotron_diffusion_plugin.sglang.models.nemotron_labs_diffusion import NemotronLabsDiffusionAttention

pytestmark = pytest.mark.engine

CLASSES = engine_classes("nemotron_diffusion_plugin.sglang")


def test_every_class_is_checked() -> None:
    assert [cls.__name__ for cls in CLASSES if not is_checked(cls)] == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_installed_sglang_has_what_is_overridden(cls: type) -> None:
    assert override_problems(cls) == []


def test_a_method_that_sglang_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(CustomSpecAlgo, "has_draft_kv")
    [problem] = override_problems(BlockAlgorithm)
    assert "BlockAlgorithm.has_draft_kv: expected a method of sglang." in problem


def test_a_signature_that_sglang_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, positions: Any, forward_batch: Any, hidden_states: Any) -> None: ...

    monkeypatch.setattr(LlamaAttention, "forward", forward)
    [problem] = override_problems(NemotronLabsDiffusionAttention)
    assert "forward(positions, forward_batch, hidden_states), found (positions, hidden_states, " in problem


def test_a_method_that_sglang_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CustomSpecAlgo, "need_topk", lambda self: True, raising=False)
    [problem] = override_problems(BlockAlgorithm)
    assert "CustomSpecAlgo.need_topk; mark the override or rename ours" in problem
