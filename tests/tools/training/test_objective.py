"""The objective: visibility against the written formula, noise, and what carries a loss."""

import itertools
import random

import pytest
import torch

from nemotron_diffusion_plugin.tools.training.conversations import Conversation
from nemotron_diffusion_plugin.tools.training.objective import cut_blocks, losses, make_batch, visibility

MASK, EOS = 100, 11


def formula(length: int, block: int) -> torch.Tensor:
    """`allow(q, k)` of docs/model.md, 4, for `[noisy | clean]` of `length` tokens each."""
    n = length

    def blk(i: int) -> int:
        return (i % n) // block

    def allow(q: int, k: int) -> bool:
        return (
            (q < n and k < n and blk(q) == blk(k))
            or (q < n and k >= n and blk(q) > blk(k))
            or (q >= n and k >= n and q >= k)
        )

    return torch.tensor([[allow(q, k) for k in range(2 * n)] for q in range(2 * n)])


@pytest.mark.parametrize(("length", "block"), [(4, 4), (8, 4), (12, 4), (96, 32)])
def test_blocks_that_cover_the_text_give_the_published_mask(length: int, block: int) -> None:
    starts = torch.arange(0, length, block)[None]
    assert torch.equal(visibility(starts, block, length)[0], formula(length, block))


def test_a_block_in_the_middle_sees_itself_and_what_is_before_it() -> None:
    visible = visibility(torch.tensor([[3]]), 2, 6)[0].int().tolist()
    assert visible == [
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 1, 1],
    ]


CONVERSATION = Conversation([200, 201, 202, 203, 204, 205, 206, EOS], [(3, 8)])


def test_blocks_are_aligned_to_the_answer_or_start_anywhere_in_it() -> None:
    rng = random.Random(0)
    cuts = [cut_blocks(CONVERSATION, 4, rng) for _ in range(100)]
    assert {blocks[0].start for blocks in cuts} == {3, 4, 5, 6}
    for blocks in cuts:
        assert [b.start - a.start for a, b in itertools.pairwise(blocks)] == [4] * (len(blocks) - 1)
        for block in blocks:
            text = CONVERSATION.tokens[block.start : block.start + 4]
            assert block.clean == text + [EOS] * (4 - len(text))
            assert block.length == len(text)
            assert text[0] != EOS


def test_a_batch_masks_answers_only_and_never_a_seed() -> None:
    rng = random.Random(0)
    for _ in range(20):
        batch = make_batch([CONVERSATION, CONVERSATION], 4, rng)
        size = batch.tokens.shape[1]
        noisy_size = size - 16
        weighted = batch.noisy_weights > 0
        rows = batch.noisy_rows[weighted]
        masked = set((batch.tokens.flatten() == MASK).nonzero().flatten().tolist())
        assert set(rows.tolist()) == masked
        assert all(row % size < noisy_size and row % size % 4 != 0 for row in masked)
        places = batch.positions.flatten()[rows]
        text = torch.tensor(CONVERSATION.tokens + [EOS] * 16)
        assert torch.equal(batch.noisy_targets[weighted], text[places])
        assert (batch.noisy_weights[weighted] >= 1.0).all()


def test_the_causal_loss_is_shifted_and_covers_the_answer_with_its_end() -> None:
    batch = make_batch([CONVERSATION], 4, random.Random(0))
    tokens = batch.tokens[0, -16:]
    assert batch.clean_targets.tolist() == CONVERSATION.tokens[3:]
    assert torch.equal(batch.tokens.flatten()[batch.clean_rows], tokens[2:7])


class UniformModel(torch.nn.Module):
    def forward(self, tokens, positions, visible, return_hidden):
        return torch.zeros(*tokens.shape, 4), []

    def diffusion_head(self, hidden):
        return torch.zeros(len(hidden), 1024)


def test_losses_are_means_over_supervised_tokens() -> None:
    batch = make_batch([CONVERSATION] * 8, 4, random.Random(0))
    causal, diffusion = losses(UniformModel(), batch)
    uniform = torch.log(torch.tensor(1024.0))
    assert torch.allclose(causal, uniform)
    assert torch.allclose(diffusion, uniform * batch.noisy_weights.sum() / batch.num_noisy)
