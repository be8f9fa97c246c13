"""Grammars over chains of drafts: what they choose, the masks they leave, and that they end where they began."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xgrammar
from sglang.srt.constrained.xgrammar_backend import XGrammarGrammar

from nemotron_diffusion_plugin.decoding.constrain import constrain, likeliest_allowed
from nemotron_diffusion_plugin.sglang.grammar import ChainGrammars

VOCAB = 300
EOS, MASK = 299, 100
WIDTH = 6


@pytest.fixture(scope="module")
def compiled() -> Any:
    """Letters and digits by bytes: an `a`, a digit, at least one `b`, a `!`."""
    vocab = [bytes([byte]) for byte in range(256)] + [b"ab", b"bb"]
    vocab += [f"<{number}>".encode() for number in range(len(vocab), VOCAB)]
    info = xgrammar.TokenizerInfo(
        vocab, vocab_type=xgrammar.VocabType.RAW, vocab_size=VOCAB, stop_token_ids=[EOS]
    )
    return xgrammar.GrammarCompiler(info).compile_regex("a[0-9]b+!")


def batch_of(*grammars: Any) -> Any:
    return SimpleNamespace(
        reqs=[SimpleNamespace(grammar=grammar) for grammar in grammars],
        sampling_info=SimpleNamespace(vocab_size=VOCAB),
    )


def grammar_of(compiled: Any, text: str = "") -> XGrammarGrammar:
    grammar = XGrammarGrammar(xgrammar.GrammarMatcher(compiled), VOCAB, compiled, None)
    for token in text.encode():
        grammar.accept_token(token)
    return grammar


def allowed(logits: torch.Tensor) -> list[set[int]]:
    return [set(torch.isfinite(row).nonzero()[:, 0].tolist()) for row in logits]


DIGITS = set(b"0123456789")


def test_masks_behind_each_draft(compiled: Any) -> None:
    first, second = grammar_of(compiled), grammar_of(compiled, "a7b")
    grammars = ChainGrammars(batch_of(None, first, None, second), WIDTH)
    assert set(grammars.chains) == {1, 3}
    assert grammars.chains[1].follow(list(b"a5bc")) == 3
    assert grammars.chains[3].follow([*b"b!", EOS, *b"bb"]) == 3
    assert grammars.chains[3].allowed() is None
    grammars.rewind()
    logits = torch.zeros(3 * 4, VOCAB)
    grammars.mask(torch.tensor([0, 1, 3]), 4)(logits)
    everything = set(range(VOCAB))
    more = {ord("b"), 257, ord("!")}  # 257 is "bb"
    assert allowed(logits[:4]) == [everything] * 4
    assert allowed(logits[4:8]) == [{ord("a")}, DIGITS, {ord("b"), 257}, more]
    assert allowed(logits[8:]) == [more, more, {EOS}, everything], "behind the end nothing is masked"
    assert first.accepted_tokens == []
    assert second.accepted_tokens == list(b"a7b")


def test_what_is_forbidden_is_replaced(compiled: Any) -> None:
    grammar = grammar_of(compiled)
    grammars = ChainGrammars(batch_of(grammar), WIDTH)
    logits = torch.zeros(5, VOCAB)
    for place, token in enumerate(b"xx!b!"):
        logits[place, token] = 9.0
    for place, token in enumerate(b"a4bb"):
        logits[place, token] += 5.0
    chosen, goes_on = constrain(
        logits.argmax(1).tolist(),
        lambda place, mask: likeliest_allowed(logits[place], mask, MASK),
        grammars.chains[0],
    )
    assert bytes(chosen) == b"a4bb!"
    assert goes_on
    grammars.rewind()
    assert grammar.accepted_tokens == []
    masked = torch.zeros(WIDTH, VOCAB)
    grammars.mask(torch.tensor([0]), WIDTH)(masked)
    assert allowed(masked)[-1] == {EOS}


def test_a_grammar_that_drafts_nothing_masks_its_seed_s_row(compiled: Any) -> None:
    ended = grammar_of(compiled, "a1b!")
    ended.accept_token(EOS)
    grammars = ChainGrammars(batch_of(grammar_of(compiled, "a"), ended), 1)
    grammars.rewind()
    logits = torch.zeros(2, VOCAB)
    grammars.mask(torch.arange(2), 1)(logits)
    assert allowed(logits) == [DIGITS, set(range(VOCAB))]


def test_the_words_of_masks_are_what_drafts_are_chosen_by(compiled: Any) -> None:
    grammars = ChainGrammars(batch_of(grammar_of(compiled, "a")), 2)
    words = grammars.chains[0].allowed()
    assert words is not None
    assert words.dtype == np.int32
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]
    assert set(np.flatnonzero(bits).tolist()) == DIGITS
