"""The bundled Eagle3 head: questions for its servers, and the counts that an evaluation without an engine gives."""

from __future__ import annotations

import random
from functools import cache

from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import load_head
from nemotron_diffusion_plugin.tools.training.eagle3.evaluation import (
    Answer,
    DraftScore,
    accepted_drafts,
    answer,
)
from tests.common.cases import Case
from tests.common.checkpoints import TRAINED

HEAD = TRAINED.parent / "tiny-eagle3"
DEPTH = 7


@cache
def questions(seed: int = 3) -> tuple[tuple[int, ...], ...]:
    """The prompt of one held-out question of each category."""
    encoder = ChatEncoder(TRAINED)
    drawn = [
        tasks.draw(random.Random(f"{seed} {category}"), held_out=True, category=category)
        for category in tasks.CATEGORIES
    ]
    return tuple(tuple(encoder.prompt(task.question)) for task in drawn)


@cache
def answers(seed: int = 3) -> tuple[Answer, ...]:
    """What the target answers to them, and how it would go on."""
    decoder = ReferenceDecoder(ReferenceModel.from_checkpoint(TRAINED))
    return tuple(answer(decoder, list(prompt), DEPTH) for prompt in questions(seed))


def cases(seed: int = 3) -> list[Case]:
    """The questions as requests; every second one names its mode."""
    return [
        Case(list(prompt), 160, {"decoding_mode": "ar"} if number % 2 else {})
        for number, prompt in enumerate(questions(seed))
    ]


@cache
def expected_score(seed: int = 3) -> DraftScore:
    """Cycles and accepted drafts of the head over all the questions."""
    head, model = load_head(HEAD), ReferenceModel.from_checkpoint(TRAINED)
    score = DraftScore(DEPTH)
    for one in answers(seed):
        score.add(len(one.emitted), accepted_drafts(head, model, one, DEPTH))
    return score
