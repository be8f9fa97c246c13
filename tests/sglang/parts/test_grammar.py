"""Grammars over chains of drafts: what they choose, the masks behind each draft, and that they end where they began."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from sglang.srt.constrained.llguidance_backend import GuidanceBackend
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject
from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend
from transformers import PreTrainedTokenizerFast

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.rules.constrain import constrain, likeliest_allowed
from nemotron_diffusion_plugin.sglang.worker.grammar import SglangDraftWalk, begin_masks, walks_of

pytestmark = pytest.mark.engine

TOKENIZER = PreTrainedTokenizerFast.from_pretrained(BUNDLED_CHECKPOINT)
VOCAB, EOS, MASK = len(TOKENIZER), TOKENIZER.eos_token_id, 100
BACKENDS = {
    "xgrammar": XGrammarGrammarBackend(TOKENIZER, VOCAB, [EOS]),
    "llguidance": GuidanceBackend(TOKENIZER, n_vocab=VOCAB, eos_token_ids=[EOS]),
}
A_RECORD = "a[0-9]b+!"
THINK_END = TOKENIZER.convert_tokens_to_ids("?")


def ids(text: str) -> list[int]:
    return [TOKENIZER.convert_tokens_to_ids(letter) for letter in text]


DIGITS = set(ids("0123456789"))
MORE = {*ids("b!"), TOKENIZER.convert_tokens_to_ids("bb")}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def grammar_of(backend: str, text: str = "", regex: str = A_RECORD) -> Any:
    grammar = BACKENDS[backend].dispatch_regex(regex)
    for token in ids(text):
        grammar.accept_token(token)
    return grammar


def thinking(grammar: Any, budget: int = -1) -> Any:
    """A grammar that holds once a thought has ended, which a budget of tokens ends."""

    def only(mask: torch.Tensor, tokens: list[int], row: int, *_: Any, **__: Any) -> None:
        mask[row] = 0
        for token in tokens:
            mask[row, token // 32] |= 1 << token % 32

    thought = ReasonerGrammarObject(
        grammar,
        [THINK_END],
        max_think_tokens=budget,
        enable_token_filter=budget >= 0,
        token_filter_fn=only,
    )
    thought.maybe_init_reasoning(True)
    return thought


def batch_of(*grammars: Any) -> Any:
    return SimpleNamespace(
        reqs=[SimpleNamespace(grammar=grammar) for grammar in grammars],
        sampling_info=SimpleNamespace(vocab_size=VOCAB),
    )


def next_of(grammar: Any) -> set[int]:
    words = SglangDraftWalk(grammar, VOCAB).allowed()
    assert words is not None
    assert words.dtype == np.int32
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]
    return set(np.flatnonzero(bits).tolist())


def test_a_walk_goes_as_far_as_the_grammar_and_back(backend: str) -> None:
    first, second = grammar_of(backend), grammar_of(backend, "a7b")
    walks = walks_of(batch_of(None, first, None, second), [0, 1, 3])
    assert set(walks) == {1, 3}
    assert walks[1].follow(ids("a5bc")) == 3
    assert walks[1].follow(ids("ca")) == 0
    assert walks[1].follow(ids("b")) == 1
    assert walks[3].follow([*ids("b!"), EOS, *ids("bb")]) == 3
    assert walks[3].allowed() is None
    for walk in walks.values():
        walk.rewind()
    assert next_of(first) == {*ids("a")}
    assert next_of(second) == MORE


def test_behind_the_end_nothing_comes_but_the_end(backend: str) -> None:
    walk = SglangDraftWalk(grammar_of(backend, "a1b!"), VOCAB)
    words = walk.allowed()
    assert words is not None
    assert int(words[EOS // 32]) == 1 << EOS % 32
    assert walk.follow(ids("b")) == 0
    assert walk.follow([EOS]) == 1
    assert walk.allowed() is None
    assert walk.follow([EOS]) == 0


def test_what_is_forbidden_is_replaced(backend: str) -> None:
    grammar = grammar_of(backend)
    walk = SglangDraftWalk(grammar, VOCAB)
    logits = torch.zeros(5, VOCAB)
    for place, token in enumerate(ids("zz!b!")):
        logits[place, token] = 9.0
    for place, token in enumerate(ids("a4bb")):
        logits[place, token] += 5.0
    chosen = logits.argmax(1).tolist()
    goes_on = constrain(
        [chosen],
        lambda places, masks: likeliest_allowed(logits[[place for _, place in places]], masks, MASK),
        [walk],
    )
    assert chosen == ids("a4bb!")
    assert goes_on == [True]
    walk.rewind()
    assert next_of(grammar) == {*ids("a")}


def test_a_thought_is_free_up_to_its_budget(backend: str) -> None:
    for budget, followed in ((-1, 6), (2, 2)):
        grammar = thinking(grammar_of(backend), budget)
        walk = SglangDraftWalk(grammar, VOCAB)
        drafts = [*ids("xyz"), THINK_END, *ids("a1z")]
        assert walk.follow(drafts) == followed
        if budget == 2:
            assert walk.follow([THINK_END, *ids("a1z")]) == 3
        walk.rewind()
        assert walk.follow([THINK_END, *ids("a")]) == 2
        walk.rewind()
        assert grammar.tokens_in_think == 0


def masked(batch: Any, rows: list[int], chains: list[list[int]]) -> list[set[int]]:
    """The tokens allowed at each verify row of some chains of equal length."""
    build = begin_masks(batch, np.array(rows), torch.tensor(chains))
    assert build is not None
    logits = torch.zeros(len(rows) * len(chains[0]), VOCAB)
    with torch.compiler.set_stance("force_eager"):  # llguidance compiles what applies a mask
        build()(logits)
    return [set(torch.isfinite(row).nonzero()[:, 0].tolist()) for row in logits]


def test_masks_behind_each_draft(backend: str) -> None:
    first, second = grammar_of(backend), grammar_of(backend, "a7b")
    batch = batch_of(None, first, first, second)
    chains = [[0, *ids("abc")], [0, *ids("a5b")], [0, *ids("b!"), EOS]]
    everything = set(range(VOCAB))
    rows = masked(batch, [0, 1, 3], chains)
    assert rows[:4] == [everything] * 4
    assert rows[4:8] == [{*ids("a")}, DIGITS, {*ids("b"), *(MORE - {*ids("!")})}, MORE]
    assert rows[8:] == [MORE, MORE, {EOS}, everything], "behind the end nothing is masked"
    assert next_of(first) == {*ids("a")}
    assert next_of(second) == MORE


def test_behind_a_forbidden_draft_nothing_is_masked(backend: str) -> None:
    everything = set(range(VOCAB))
    rows = masked(batch_of(grammar_of(backend)), [0], [[0, *ids("aa5")]])
    assert rows == [{*ids("a")}, DIGITS, everything, everything]


def test_without_a_grammar_there_is_no_mask() -> None:
    batch = batch_of(grammar_of("xgrammar"), None, None)
    assert begin_masks(batch, np.array([1, 2]), torch.zeros(2, 3, dtype=torch.int64)) is None
