"""Drafts chosen by a grammar, over automata small enough to check by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.decoding.constrain import constrain, likeliest_allowed
from tests.common.automaton import Automaton, mask_of

VOCAB = 70
MASK = 17


def likeliest_of(rows: list[list[int]]):
    """The likeliest token by an order of all tokens at each place."""
    logits = torch.empty(len(rows), VOCAB)
    for row, order in enumerate(rows):
        logits[row, order] = -torch.arange(VOCAB, dtype=torch.float32)
    return lambda place, mask: likeliest_allowed(logits[place], mask, MASK)


def order(*first: int) -> list[int]:
    return [*first, *(token for token in range(VOCAB) if token not in first)]


def test_what_is_allowed_stays_and_no_mask_is_made() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1, 4: 1}, 1: {5: 2}, 2: {6: 0}})
    assert constrain([4, 5, 6], likeliest_of([order()] * 3), grammar) == ([4, 5, 6], True)
    assert grammar.masks == 0
    assert grammar.state == 0


def test_a_forbidden_draft_becomes_the_likeliest_that_fits_behind_the_others() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1, 4: 2}, 1: {5: 0}, 2: {6: 0, 69: 0}})
    # 9 is forbidden: 4 is likelier than 3, and behind 4 no 5 may come, but 69 may.
    likeliest = likeliest_of([order(9, 4, 3), order(5, 69, 6), order(9, 8, 3)])
    assert constrain([9, 5, 9], likeliest, grammar) == ([4, 69, 3], True)
    assert grammar.state == 1


def test_drafts_behind_the_end_stay() -> None:
    grammar = Automaton(VOCAB, {0: {3: 1}})
    assert constrain([3, 3, 9], likeliest_of([order()] * 3), grammar) == ([3, 3, 9], False)


class Contradicting(Automaton):
    """Takes nothing, whatever its mask says."""

    def follow(self, tokens):
        return 0


def test_a_grammar_that_contradicts_itself_ends_the_choice() -> None:
    grammar = Contradicting(VOCAB, {0: {3: 0}})
    chosen, goes_on = constrain([9, 9], likeliest_of([order(), order()]), grammar)
    assert (chosen[1], goes_on) == (9, False)


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
    chosen, goes_on = constrain(picked, likeliest_of(orders), Automaton(VOCAB, edges))
    state = 0
    for place, token in enumerate(chosen):
        assert token == next(one for one in orders[place] if one in edges[state])
        state = edges[state][token]
    assert goes_on


@pytest.mark.parametrize("token", [0, 30, 31, 32, 63, 64, VOCAB - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_at_the_borders_of_words(token: int, dtype: torch.dtype) -> None:
    logits = torch.arange(VOCAB, dtype=dtype).flip(0)
    logits[MASK] = 100.0
    assert likeliest_allowed(logits, mask_of(VOCAB, [token]), MASK) == token
    assert likeliest_allowed(logits, mask_of(VOCAB, [token, MASK]), MASK) == token
    both = mask_of(VOCAB, [token, 5])
    assert both.dtype == np.int32
    assert likeliest_allowed(logits, both, MASK) == min(token, 5)
