"""A few steps of the recipe: the loss falls, a seed decides the weights, the folder is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.eagle3 import evaluation, recipe
from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import load_head
from nemotron_diffusion_plugin.tools.training.eagle3.objective import draft_loss, make_batch
from nemotron_diffusion_plugin.tools.training.eagle3.recipe import (
    HeadProgress,
    draw_batches,
    draw_conversations,
    new_head,
    train_eagle3,
    train_head,
)
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer
from tests.tools.training.eagle3.toy import SETTINGS, small_target


@pytest.fixture(autouse=True)
def _little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "POOL_SIZE", 64)
    monkeypatch.setattr(recipe, "WAITING_BATCHES", 3)
    monkeypatch.setattr(evaluation, "MAX_NEW_TOKENS", 8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 1024)
    return ChatEncoder(folder)


def test_the_loss_falls_and_the_target_stays(encoder: ChatEncoder) -> None:
    target = small_target()
    target.diffusion_head.weight.mul_(20.0)  # a target that is sure of something
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    batch = make_batch(target, next(draw_conversations(encoder, 1024, seed=1)), SETTINGS.layers)
    untrained = new_head(target, SETTINGS, seed=0)
    seen: list[HeadProgress] = []
    trained = train_head(target, encoder, replace(SETTINGS, steps=20), seed=0, on_step=seen.append)
    losses = [draft_loss(head, target, batch, 3, 0.8)[0].item() for head in (untrained, trained)]
    assert losses[1] < losses[0] - 0.5, losses
    assert [progress.step for progress in seen] == list(range(1, 21))
    assert all(len(progress.right) == 3 for progress in seen)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_same_seed_gives_the_same_weights(encoder: ChatEncoder) -> None:
    heads = [train_head(small_target(), encoder, SETTINGS, seed=3) for _ in range(2)]
    for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_batches_are_read_once_and_come_several_times(encoder: ChatEncoder) -> None:
    batches = draw_batches(small_target(), encoder, replace(SETTINGS, repeats=2), seed=0)
    seen = [next(batches) for _ in range(40)]
    times = [sum(one is other for other in seen) for one in {id(batch): batch for batch in seen}.values()]
    assert max(times) == 2
    assert times.count(2) >= 15
    assert any(a is not b for a, b in zip(seen[::2], seen[1::2], strict=True))


def test_minutes_end_a_training(encoder: ChatEncoder) -> None:
    seen: list[HeadProgress] = []
    train_head(small_target(), encoder, SETTINGS, seed=0, minutes=1e-9, on_step=seen.append)
    assert seen == []


def test_a_few_steps_leave_a_folder_that_reads_back(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "target", config={"num_hidden_layers": 6})
    lines: list[str] = []
    settings = replace(SETTINGS, steps=2)
    scores = train_eagle3(
        tmp_path / "head", tmp_path / "target", settings=settings, eval_per_category=1, on_report=lines.append
    )
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["config.json", "model.safetensors"]
    assert load_head(tmp_path / "head").config.layers == settings.layers
    assert list(scores) == [3, 5, 7, 15, 31]
    assert all(score.answers == 1 for score in scores[7].values())
    assert lines[-1].startswith("| category | 3 drafts |")
