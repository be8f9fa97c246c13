"""What the bundled tiny model reaches on a small held-out sample, and what its folder holds."""

import json
from pathlib import Path

import pytest
import torch

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.evaluation import Score, evaluate, total
from nemotron_diffusion_plugin.tools.training.geometry import tiny_config
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer

QUESTIONS_PER_CATEGORY = 3


@pytest.fixture(scope="module")
def scores() -> dict[str, Score]:
    torch.set_num_threads(1)
    by_category = evaluate(
        ReferenceDecoder.from_checkpoint(BUNDLED_CHECKPOINT),
        ChatEncoder(BUNDLED_CHECKPOINT),
        per_category=QUESTIONS_PER_CATEGORY,
        seed=1,
    )
    return {variant: total(column) for variant, column in by_category.items()}


def test_it_answers_unseen_questions(scores: dict[str, Score]) -> None:
    assert scores["ar"].asked == 30
    assert scores["ar"].right >= 28, scores["ar"].questions_missed


def test_diffusion_answers_nearly_as_well_in_far_fewer_forwards(scores: dict[str, Score]) -> None:
    assert scores["diffusion"].right >= 26, scores["diffusion"].questions_missed
    assert scores["diffusion"].tokens_per_forward >= 6.0


def test_self_speculation_repeats_the_autoregressive_answers(scores: dict[str, Score]) -> None:
    for variant in ("self_speculation", "self_speculation without LoRA"):
        assert scores[variant].tokens == scores["ar"].tokens
        assert scores[variant].questions_missed == scores["ar"].questions_missed


def test_the_drafter_lora_lengthens_the_accepted_drafts(scores: dict[str, Score]) -> None:
    with_lora, without = scores["self_speculation"], scores["self_speculation without LoRA"]
    assert with_lora.acceptance_length >= 15.0
    assert with_lora.acceptance_length > without.acceptance_length


def test_the_folder_is_what_the_recipe_writes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 1024)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (BUNDLED_CHECKPOINT / path.name).read_bytes(), path.name
    assert json.loads((BUNDLED_CHECKPOINT / "config.json").read_text()) == tiny_config()
    lora = DrafterLora.load(BUNDLED_CHECKPOINT, read_config(BUNDLED_CHECKPOINT))
    assert lora is not None
    assert (lora.rank, lora.alpha) == (16, 64.0)


def test_the_folder_is_at_most_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in BUNDLED_CHECKPOINT.rglob("*") if path.is_file()) <= 10_000_000
