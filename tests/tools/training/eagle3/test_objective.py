"""Which drafts the loss counts, and against what."""

from __future__ import annotations

import pytest
import torch

from nemotron_diffusion_plugin.tools.training.conversations import Conversation
from nemotron_diffusion_plugin.tools.training.eagle3.objective import draft_loss, make_batch
from tests.tools.training.eagle3.toy import random_head, small_target

TALK = [
    Conversation([7, 300, 20, 301, 302, 303, 11], [(3, 7)]),
    Conversation([7, 300, 301, 11, 20, 400, 401, 402, 11], [(2, 4), (5, 9)]),
]


def test_a_chain_starts_before_every_token_of_an_answer_that_can_be_drafted() -> None:
    batch = make_batch(small_target(), TALK, (1, 2, 3))
    assert batch.context.padding.tolist() == [2, 0]
    assert batch.context.tokens[0].tolist() == [11, 11, 7, 300, 20, 301, 302, 303, 11]
    kept = [
        [(start, end) for start, end in zip(*row, strict=True) if end]
        for row in zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)
    ]
    assert kept == [[(4, 9), (5, 9), (6, 9)], [(1, 4), (4, 9), (5, 9), (6, 9)]]


def test_the_loss_is_the_mean_cross_entropy_to_the_target_of_each_step() -> None:
    target = small_target()
    head = random_head(target)
    batch = make_batch(target, TALK, (1, 2, 3))
    loss, right = draft_loss(head, target, batch, 2, decay=0.5)
    chains = list(head.chains(target.encoder.embed_tokens, batch.context, batch.starts, 2))
    expected, shares = [], []
    for step, hidden in enumerate(chains):
        terms, hits = [], []
        for row in range(2):
            for chain, (start, end) in enumerate(
                zip(batch.starts[row].tolist(), batch.ends[row].tolist(), strict=True)
            ):
                if start + step + 2 < end:
                    drafted = head.lm_head(hidden[row, chain]).log_softmax(-1)
                    wanted = batch.wanted[row, start + step + 1]
                    terms.append(-(wanted * drafted).sum())
                    hits.append(float(drafted.argmax() == wanted.argmax()))
        expected.append(torch.stack(terms).mean())
        shares.append(sum(hits) / len(hits))
    assert loss.item() == pytest.approx((expected[0] + 0.5 * expected[1]).item(), rel=1e-5)
    assert right == pytest.approx(shares)


def test_the_wanted_tokens_are_the_targets() -> None:
    target = small_target()
    batch = make_batch(target, TALK, (1, 2, 3))
    columns = torch.arange(7)
    logits, _ = target(torch.tensor([TALK[0].tokens]), columns, columns <= columns[:, None])
    assert torch.allclose(batch.wanted[0, 2:], logits[0].softmax(-1), atol=1e-5)
