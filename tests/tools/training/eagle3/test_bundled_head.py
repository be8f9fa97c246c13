"""The bundled head beside self-speculation: what it reaches on held-out questions, and what its folder holds."""

from __future__ import annotations

import pytest
import torch

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import load_head
from nemotron_diffusion_plugin.tools.training.eagle3.evaluation import (
    DraftScore,
    decode_answers,
    evaluate_head,
    total,
)
from nemotron_diffusion_plugin.tools.training.evaluation import Score, evaluate
from tests.common.eagle3 import DEPTH, HEAD

QUESTIONS_PER_CATEGORY = 3
SEED = 1
DEPTHS = (3, 5, 7, 15)


@pytest.fixture(scope="module")
def decoder() -> ReferenceDecoder:
    torch.set_num_threads(1)
    return ReferenceDecoder.from_checkpoint(BUNDLED_CHECKPOINT)


@pytest.fixture(scope="module")
def scores(decoder: ReferenceDecoder) -> dict[int, dict[str, DraftScore]]:
    answers = decode_answers(
        decoder.model,
        ChatEncoder(BUNDLED_CHECKPOINT),
        per_category=QUESTIONS_PER_CATEGORY,
        seed=SEED,
        beyond=max(DEPTHS),
    )
    return evaluate_head(load_head(HEAD), decoder.model, answers, DEPTHS)


@pytest.fixture(scope="module")
def self_speculation(decoder: ReferenceDecoder) -> dict[str, Score]:
    variant = "self_speculation"
    encoder = ChatEncoder(BUNDLED_CHECKPOINT)
    by_variant = evaluate(
        decoder, encoder, per_category=QUESTIONS_PER_CATEGORY, seed=SEED, variants=[variant]
    )
    return by_variant[variant]


def test_both_drafted_the_same_answers(
    scores: dict[int, dict[str, DraftScore]], self_speculation: dict[str, Score]
) -> None:
    for by_category in scores.values():
        tokens = {category: score.tokens for category, score in by_category.items()}
        assert tokens == {category: score.tokens for category, score in self_speculation.items()}


def test_self_speculation_with_its_lora_accepts_more_in_every_category(
    scores: dict[int, dict[str, DraftScore]], self_speculation: dict[str, Score]
) -> None:
    """However deep the head drafts."""
    for depth, by_category in scores.items():
        for category, score in by_category.items():
            assert self_speculation[category].acceptance_length > score.acceptance_length, (depth, category)


def test_the_head_is_a_trained_one(scores: dict[int, dict[str, DraftScore]]) -> None:
    lengths = {depth: total(by_category).acceptance_length for depth, by_category in scores.items()}
    assert lengths[DEPTH] > 5, lengths
    assert list(lengths.values()) == sorted(lengths.values())


def test_the_folder_is_at_most_three_megabytes() -> None:
    files = {path.name: path.stat().st_size for path in HEAD.iterdir()}
    assert set(files) == {"config.json", "model.safetensors"}
    assert sum(files.values()) <= 3_000_000
