"""What is kept of the logits by which tokens were committed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose
from nemotron_diffusion_plugin.rules.pick import pick
from nemotron_diffusion_plugin.serving import picking
from tests.serving.test_drafting import LAST, Bench
from tests.serving.toy import BLOCK, DIFFUSION, MASK, VOCAB, ToyForward, make_table, take

OPTIONS = {**DIFFUSION, "threshold": 0.95}
NAMED = (5, MASK, 39)
NOBODY = np.empty(0, dtype=np.int64)


def run(
    asked: dict[int, tuple[int | None, tuple[int, ...]]], max_tokens: int = 1 << 20, as_logits: bool = False
) -> Bench:
    """Denoise a block for each slot, whose requests ask for log-probabilities or not."""
    bench = Bench(max_tokens)
    bench.table.logprobs.as_logits = as_logits
    for slot, (most, named) in asked.items():
        take(bench.table, slot, OPTIONS, logprobs=most, named_logprobs=named)
        start = np.array([10 + slot])
        bench.table.begin_blocks(np.array([slot]), start, torch.tensor([slot]), LAST)
    bench.drafter.run()
    return bench


def committed_by(forward: ToyForward, slot: int) -> tuple[list[int], torch.Tensor]:
    """The tokens of a slot's block by the rules of `decoding`, and the logits `[B, V]` that committed each."""
    rules = CommitRules.of([make_table().settings.options(OPTIONS)])
    block = BlockState.start(torch.tensor([slot]), torch.tensor([BLOCK]), BLOCK, MASK)
    kept = torch.zeros(BLOCK, VOCAB)
    while not block.finished.all():
        logits = forward.of_block(block.tokens[0], 10 + slot)
        tokens, confidence = pick(logits, MASK)
        chosen = choose(confidence[None], block.masked, block.step, block.length - 1, rules)
        kept[chosen[0]] = logits[chosen[0]]
        block.commit(tokens[None], chosen)
    return block.tokens[0].tolist(), kept


@pytest.mark.parametrize("rows", [1, 3, 8, 11, 100])
@pytest.mark.parametrize("max_tokens", [BLOCK, 1 << 20])
def test_they_are_those_of_the_step_that_committed_a_token(
    rows: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the rows are cut, and whoever denoises beside it."""
    monkeypatch.setattr(picking, "LOGITS_AT_ONCE", rows * VOCAB)
    asked = {0: (None, ()), 1: (3, ()), 2: (0, NAMED), 4: (-1, ())}
    bench = run(asked, max_tokens)
    places = torch.arange(1, BLOCK)
    steps = set()
    for slot, (most, named) in asked.items():
        scores = bench.table.logprobs.of(slot, places)
        if most is None:
            assert scores is None
            continue
        tokens, logits = committed_by(bench.forward, slot)
        assert bench.table.blocks.tokens[slot].tolist() == tokens
        steps.add(int(bench.table.steps[slot]))
        expected = logits[1:].log_softmax(1)
        own = expected.gather(1, torch.tensor(tokens[1:])[:, None])
        torch.testing.assert_close(scores.token, own[:, 0])
        torch.testing.assert_close(scores.named, expected[:, list(named)])
        without_mask = expected.clone()
        without_mask[:, MASK] = -torch.inf
        assert torch.equal(scores.rank, 1 + (without_mask > own).sum(1))
        top = without_mask.topk(VOCAB if most < 0 else most, dim=1)
        torch.testing.assert_close(scores.top, top.values)
        torch.testing.assert_close(without_mask.gather(1, scores.top_ids), top.values)
    assert max(steps) > 2, "tokens are meant to be committed by different steps"


def test_logits_where_the_server_reports_logits() -> None:
    bench = run({1: (2, ())}, as_logits=True)
    tokens, logits = committed_by(bench.forward, 1)
    scores = bench.table.logprobs.of(1, torch.arange(1, BLOCK))
    assert scores is not None
    torch.testing.assert_close(scores.token, logits[torch.arange(1, BLOCK), torch.tensor(tokens[1:])])


def test_places_outside_a_block_are_no_error() -> None:
    bench = run({1: (2, ())})
    scores = bench.table.logprobs.of(1, torch.tensor([-3, 1, BLOCK + 5]))
    assert scores is not None
    assert scores.token.shape == (3,)


def test_a_slot_s_next_request_and_other_modes_keep_nothing() -> None:
    bench = run({1: (2, ())})
    take(bench.table, 1, OPTIONS)
    assert bench.table.logprobs.of(1, torch.arange(1)) is None
    assert not bench.table.logprobs.num_held
    take(bench.table, 1, {"decoding_mode": "self_speculation"}, logprobs=2)
    assert not bench.table.logprobs.num_held, "its log-probabilities are those of the verify forward"


def test_nothing_is_kept_of_a_slot_whose_request_is_gone() -> None:
    bench = run({1: (2, ()), 2: (0, (5,))})
    assert bench.table.logprobs.num_held == 2
    bench.table.release(1)
    assert bench.table.logprobs.num_held == 1
    assert bench.table.logprobs.of(1, torch.arange(1)) is None
    assert bench.table.logprobs.of(2, torch.arange(1)) is not None


def test_blocks_that_are_handed_over_go_and_what_is_wanted_stays() -> None:
    bench = run({1: (2, ()), 2: (0, (5,))})
    bench.table.logprobs.keep_only(np.array([2, 3]))
    assert bench.table.logprobs.of(1, torch.arange(1)) is None
    assert bench.table.logprobs.of(2, torch.arange(1)) is not None
    assert bench.table.logprobs.is_wanted(np.array([1, 2, 3])).tolist() == [True, True, False]
