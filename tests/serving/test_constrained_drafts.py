"""Drafts that grammars choose, wherever the rows of a forward are cut into parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.rules.constrain import constrain, likeliest_allowed
from nemotron_diffusion_plugin.serving import picking
from tests.common.automaton import Automaton
from tests.serving.test_drafting import Bench
from tests.serving.toy import BLOCK, DIFFUSION, MASK, VOCAB

# Three states that allow a few tokens each; behind 33 the answer has ended.
EDGES = {0: {3: 1, 4: 1, 5: 1}, 1: {6: 0, 7: 2, 8: 0}, 2: {9: 0, 33: 3}}
ENDLESS = {0: {3: 1, 4: 1, 5: 1}, 1: {6: 0, 7: 2, 8: 0}, 2: {9: 0}}


def draft(slots: list[int], grammars: dict[int, Automaton], max_tokens: int = 1 << 20) -> torch.Tensor:
    bench = Bench(max_tokens)
    for slot in slots:
        bench.lay_out(slot, {"draft_lora": False}, start=10 + slot)
    result = bench.drafter.run(np.array(slots), walks=grammars)
    assert result.drafts is not None
    return result.drafts


@pytest.mark.parametrize("rows", [1, 3, 8, 11, 100])
@pytest.mark.parametrize("max_tokens", [BLOCK, 1 << 20])
def test_each_is_chosen_behind_the_ones_before_it(
    rows: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picking, "LOGITS_AT_ONCE", rows * VOCAB)
    free = draft([1, 2, 4], {}, max_tokens)
    grammars = {2: Automaton(VOCAB, ENDLESS), 4: Automaton(VOCAB, EDGES, start=1)}
    drafts = draft([1, 2, 4], grammars, max_tokens)
    assert torch.equal(drafts[0], free[0]), "a request without a grammar drafts as ever"
    assert drafts[:, 0].tolist() == free[:, 0].tolist(), "the seed's place is not drafted"
    bench = Bench()
    for row, (slot, start, edges) in enumerate(((2, 0, ENDLESS), (4, 1, EDGES)), start=1):
        logits = bench.forward.of_block(torch.tensor([slot] + [MASK] * (BLOCK - 1)), 10 + slot)[1:]
        grammar = Automaton(VOCAB, edges, start)
        expected = free[row, 1:].tolist()
        constrain(
            [expected],
            lambda places, masks, logits=logits: likeliest_allowed(logits[[places[0][1]]], masks, MASK),
            [grammar],
        )
        assert drafts[row, 1:].tolist() == expected
        assert grammars[slot].state == grammar.state
    assert not torch.equal(drafts[1:], free[1:]), "the grammars are meant to forbid something"


def test_behind_the_end_drafts_stay() -> None:
    free = draft([0], {})
    drafts = draft([0], {0: Automaton(VOCAB, {0: {3: 1}, 1: {33: 2}})})
    assert drafts[0].tolist() == [int(free[0, 0]), 3, 33, *free[0, 3:].tolist()]


def test_denoising_beside_it_is_untouched() -> None:
    bench = Bench()
    bench.begin(1, DIFFUSION)
    bench.lay_out(2, {"draft_lora": False}, start=12)
    grammars = {2: Automaton(VOCAB, ENDLESS)}
    bench.drafter.run(np.array([2]), walks=grammars)
    alone = Bench()
    alone.begin(1, DIFFUSION)
    alone.drafter.run()
    assert torch.equal(bench.table.blocks.tokens[1], alone.table.blocks.tokens[1])
    assert bench.table.steps[1] == alone.table.steps[1]
