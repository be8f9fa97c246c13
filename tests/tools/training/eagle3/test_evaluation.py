"""Counting of accepted drafts: on hand-made numbers, and against a target that really verifies."""

from __future__ import annotations

import pytest
import torch

from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.eagle3.evaluation import (
    Answer,
    DraftScore,
    accepted_drafts,
    answer,
    evaluate_head,
    format_table,
    total,
)
from nemotron_diffusion_plugin.tools.training.eagle3.head import Eagle3Head, read_target
from nemotron_diffusion_plugin.tools.training.random_model import random_tensors
from tests.tools.training.eagle3.toy import random_head, small_target


def test_cycles_follow_each_other_from_the_first_token() -> None:
    """Seven tokens; behind the first two drafts are right, behind the fourth five, of which three are past the end."""
    score = DraftScore(depth=4)
    score.add(7, [2, 0, 0, 5, 9, 9, 9])
    assert (score.tokens, score.cycles) == (7, 2)
    assert score.accepted_at == [2, 2, 1, 1]
    assert score.acceptance_length == 3.0
    assert score.counted_acceptance_length == 4.0
    assert score.acceptance_by_place == [1.0, 1.0, 0.5, 0.5]


def test_an_answer_of_one_token_has_no_cycle() -> None:
    score = DraftScore(depth=2)
    score.add(1, [2])
    assert (score.tokens, score.cycles, score.acceptance_length) == (1, 0, 0.0)


def test_the_total_weighs_cycles() -> None:
    scores = {"a": DraftScore(2, 1, 5, 2, [2, 0]), "b": DraftScore(2, 1, 2, 1, [0, 0])}
    both = total(scores)
    assert (both.acceptance_length, both.accepted_at) == (5 / 3, [2, 0])
    rows = format_table({2: scores}).splitlines()
    assert rows == [
        "| category | 2 drafts |",
        "| --- | --- |",
        "| a | 2.00 |",
        "| b | 1.00 |",
        "| all | 1.67 |",
    ]


def speculate(
    head: Eagle3Head, target: ReferenceModel, prompt: list[int], length: int, depth: int
) -> list[int]:
    """Draft with the head's own tokens and verify by the target, cycle by cycle; accepted drafts of each."""
    tokens, accepted = list(prompt), []

    def following(text: list[int]) -> list[int]:
        columns = torch.arange(len(text))
        logits, _ = target(torch.tensor([text]), columns, columns <= columns[:, None])
        return logits[0].argmax(-1).tolist()

    tokens.append(following(tokens)[-1])
    while len(tokens) - len(prompt) < length:
        start, drafts = len(tokens) - 2, []
        for step in range(depth):
            text = torch.tensor([[*tokens, *drafts]])
            context, _ = read_target(target, text, torch.tensor([0]), (1, 2, 3))
            *_, hidden = head.chains(target.encoder.embed_tokens, context, torch.tensor([[start]]), step + 1)
            drafts.append(int(head.lm_head(hidden)[0, 0].argmax()))
        picked = following([*tokens, *drafts])[len(tokens) - 1 :]
        count = 0
        while count < depth and drafts[count] == picked[count]:
            count += 1
        accepted.append(count)
        tokens += picked[: count + 1]
    return accepted


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_one_pass_counts_what_drafting_and_verifying_counts(depth: int) -> None:
    target = small_target()
    tensors = random_tensors(target.config, torch.Generator().manual_seed(1))
    target.load_state_dict(tensors)
    head = random_head(target)
    for weight in (target.diffusion_head.weight, head.lm_head.weight):
        weight[403:].mul_(0.0)  # few tokens, so that drafts are right now and then
        weight[:400].mul_(0.0)
    decoder = ReferenceDecoder(target)
    counted, drafted_into = [], []
    for prompt in ([7, 300, 20, 301], [7, 500, 501, 502, 503, 20], [9, 9, 9]):
        one = answer(decoder, prompt, beyond=8)
        one = Answer(prompt, [*one.emitted, *one.beyond][:20], ([*one.emitted, *one.beyond])[20:28])
        score = DraftScore(depth)
        score.add(20, accepted_drafts(head, target, one, depth))
        expected = speculate(head, target, prompt, 20, depth)
        assert score.cycles == len(expected)
        assert sum(score.accepted_at) == sum(expected)
        counted += expected
        drafted_into += one.emitted
    assert len(set(counted)) > 1
    assert len(set(drafted_into)) > 2


def test_an_answer_must_be_known_past_its_end() -> None:
    target = small_target()
    with pytest.raises(ValueError, match="got 2 tokens past the end, expected at least 3"):
        evaluate_head(random_head(target), target, {"a": [Answer([7, 8], [300, 11], [5, 6])]}, depths=(3,))
