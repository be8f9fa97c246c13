"""The whole recipe in seconds: a few steps of every phase leave a complete checkpoint."""

from pathlib import Path

import pytest

from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.training import geometry, recipe


def test_a_few_steps_leave_a_complete_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**geometry.tiny_config(), "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1}
    monkeypatch.setattr(recipe, "tiny_config", lambda: small)
    monkeypatch.setattr("nemotron_diffusion_plugin.tools.training.export.tiny_config", lambda: small)
    lines: list[str] = []
    phases = (recipe.Phase(2, 0.7), recipe.Phase(1, 0.1, peak=0.5, weights={"lookup": 5.0}))
    scores = recipe.train_tiny(
        tmp_path, seed=3, phases=phases, drafter_steps=2, eval_per_category=0, on_report=lines.append
    )
    assert scores == {}
    assert [line.split(":")[0] for line in lines] == ["base phase 1 done", "base phase 2 done"]
    assert "step=2" in lines[0]
    decoder = ReferenceDecoder.from_checkpoint(tmp_path)
    assert decoder.lora is not None
    assert decoder.model.config.hidden_size == 48
    assert {path.name for path in tmp_path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "linear_spec_lora",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_shares_of_time_fill_the_time() -> None:
    shares = [phase.share_of_time for phase in recipe.PHASES]
    assert sum(shares) + recipe.DRAFTER_SHARE_OF_TIME == pytest.approx(1.0)
