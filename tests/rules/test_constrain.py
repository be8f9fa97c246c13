"""Drafts chosen by a grammar, over automata small enough to check by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.rules.constrain import MOST_REPLACED, constrain, likeliest_allowed
from tests.common.automaton import Automaton, mask_of

VOCAB = 70
MASK = 17


def likeliest_of(*blocks: list[list[int]]):
    """The likeliest tokens by an order of all tokens at each place of each block; the rounds are counted."""
    logits = torch.empty(len(blocks), max(map(len, blocks)), VOCAB)
    for block, rows in enumerate(blocks):
        for row, tokens in enumerate(rows):
            logits[block, row, tokens] = -torch.arange(VOCAB, dtype=torch.float32)

    def likeliest(places: list[tuple[int, int]], masks: np.ndarray) -> list[int]:
        likeliest.rounds += 1
        return likeliest_allowed(logits[tuple(zip(*places, strict=True))], masks, MASK)

    likeliest.rounds = 0
    return likeliest


def constrained(drafts, rows, grammar, most=MOST_REPLACED):
    """One block."""
    goes_on = constrain([drafts], likeliest_of(rows), [grammar], most)
    return drafts, goes_on[0]


def order(*first: int) -> list[int]:
    return [*first, *(token for token in range(VOCAB) if token not in first)]


def test_what_is_allowed_stays_and_no_mask_is_made() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1, 4: 1}, 1: {5: 2}, 2: {6: 0}})
    assert constrained([4, 5, 6], [order()] * 3, grammar) == ([4, 5, 6], True)
    assert grammar.masks == 0
    assert grammar.state == 0


def test_a_forbidden_draft_becomes_the_likeliest_that_fits_behind_the_others() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1, 4: 2}, 1: {5: 0}, 2: {6: 0, 69: 0}})
    # 9 is forbidden: 4 is likelier than 3, and behind 4 no 5 may come, but 69 may.
    rows = [order(9, 4, 3), order(5, 69, 6), order(9, 8, 3)]
    assert constrained([9, 5, 9], rows, grammar) == ([4, 69, 3], True)
    assert grammar.state == 1


def test_drafts_behind_the_end_stay() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1}})
    assert constrained([3, 3, 9], [order()] * 3, grammar) == ([3, 3, 9], False)


class Contradicting(Automaton):
    """Takes nothing, whatever its mask says."""

    def follow(self, tokens):
        return 0


def test_a_grammar_that_contradicts_itself_ends_the_choice() -> None:
    grammar = Contradicting(VOCAB, {0: {3: 0}})
    chosen, goes_on = constrained([9, 9], [order(), order()], grammar)
    assert (chosen[1], goes_on) == (9, False)
    assert grammar.masks == 2, "no third mask for the same token"


@pytest.mark.parametrize("seed", range(20))
def test_it_is_masking_and_picking_place_by_place(seed: int) -> None:
    rng = random.Random(seed)
    tokens = [token for token in range(VOCAB) if token != MASK]
    edges = {
        state: {token: rng.randrange(6) for token in rng.sample(tokens, rng.randint(1, 9))}
        for state in range(6)
    }
    orders = [rng.sample(range(VOCAB), VOCAB) for _ in range(12)]
    picked = [one[0] for one in orders]
    chosen, goes_on = constrained(picked, orders, Automaton(VOCAB, edges), most=12)
    state = 0
    for place, token in enumerate(chosen):
        assert token == next(one for one in orders[place] if one in edges[state])
        state = edges[state][token]
    assert goes_on


def test_behind_the_most_that_are_replaced_drafts_stay() -> None:
    grammar = Automaton(VOCAB, {0: {3: 0}})
    rows = [order(3) for _ in range(6)]
    assert constrained([9, 3, 9, 9, 3, 9], rows, grammar, most=2) == ([3, 3, 3, 9, 3, 9], False)
    assert constrained([9, 3, 9, 3, 3, 3], rows, grammar, most=2) == ([3, 3, 3, 3, 3, 3], True)


def test_a_round_replaces_one_draft_of_every_block() -> None:
    edges = {0: {3: 1, 4: 1}, 1: {5: 0}}
    blocks = [[9, 5, 9], [4, 5, 4], [3, 9], [4, 9, 9, 9]]
    grammars = [Automaton(VOCAB, edges), Automaton(VOCAB, edges), Automaton(VOCAB, {0: {3: 2}})]
    grammars.append(Automaton(VOCAB, edges))
    likeliest = likeliest_of(*([order(4, 5, 3)] * 4 for _ in blocks))
    assert constrain(blocks, likeliest, grammars) == [True, True, False, True]
    assert blocks == [[4, 5, 4], [4, 5, 4], [3, 9], [4, 5, 4, 5]]
    assert likeliest.rounds == 3
    assert [grammar.masks for grammar in grammars] == [2, 0, 1, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("token", [0, 30, 31, 32, 63, 64, VOCAB - 1])
def test_bits_at_the_borders_of_words(token: int, dtype: torch.dtype) -> None:
    logits = torch.arange(VOCAB, dtype=dtype).flip(0)
    logits[MASK] = 100.0
    masks = np.stack([mask_of(VOCAB, allowed) for allowed in ([token], [token, MASK], [token, 5])])
    assert masks.dtype == np.int32
    rows = logits.expand(3, VOCAB)
    assert likeliest_allowed(rows, masks, MASK) == [token, token, min(token, 5)]
