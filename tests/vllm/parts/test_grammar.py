"""The grammar of a request over the drafts behind a step: what it chooses by, and that it ends where it began."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

import xgrammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.vllm.grammar import RequestGrammar, SampledTokens, VllmDraftWalk

pytestmark = pytest.mark.engine

VOCAB, EOS = 300, 299


@pytest.fixture(scope="module")
def compiled() -> Any:
    """By bytes: an `a`, a digit, at least one `b`, a `!`."""
    vocab = [bytes([byte]) for byte in range(256)]
    vocab += [f"<{number}>".encode() for number in range(len(vocab), VOCAB)]
    info = xgrammar.TokenizerInfo(
        vocab, vocab_type=xgrammar.VocabType.RAW, vocab_size=VOCAB, stop_token_ids=[EOS]
    )
    return xgrammar.GrammarCompiler(info).compile_regex("a[0-9]b+!")


class Backend:
    def allocate_token_bitmask(self, count: int) -> torch.Tensor:
        return xgrammar.allocate_token_bitmask(count, VOCAB)


def walk_of(
    compiled: Any, sampled: list[int], emitted: str = "", constrained: bool = True
) -> tuple[VllmDraftWalk, XgrammarGrammar]:
    """A walk behind a step that sampled some tokens, after the grammar has taken in what was emitted before."""
    grammar = XgrammarGrammar(vocab_size=VOCAB, matcher=xgrammar.GrammarMatcher(compiled), ctx=compiled)
    grammar.accept_tokens("r", list(emitted.encode()))
    return behind(Backend(), grammar, sampled, constrained), grammar


def behind(backend: Any, grammar: Any, sampled: list[int], constrained: bool = True) -> VllmDraftWalk:
    bounds = SimpleNamespace(constraint_start=0 if constrained else 1)
    manager = SimpleNamespace(_get_constraint_bounds=lambda request, tokens: bounds, backend=backend)
    request = SimpleNamespace(request_id="r", structured_output_request=SimpleNamespace(grammar=grammar))
    width = max(6, len(sampled))
    rows = torch.tensor([[7] * width, [*sampled, *[0] * (width - len(sampled))]])
    tokens = SampledTokens(rows, torch.tensor([width, len(sampled)]))
    return RequestGrammar(manager, request).after(tokens, 1)


def bits(words: np.ndarray) -> set[int]:
    assert words.dtype == np.int32
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]).tolist())


def next_of(grammar: XgrammarGrammar) -> set[int]:
    mask = xgrammar.allocate_token_bitmask(1, VOCAB)
    grammar.fill_bitmask(mask, 0)
    return bits(mask[0].numpy())


def test_it_stands_behind_what_was_sampled(compiled: Any) -> None:
    walk, grammar = walk_of(compiled, list(b"5b"), emitted="a")
    before = next_of(grammar)
    assert walk.follow(list(b"bbx")) == 2
    allowed = walk.allowed()
    assert allowed is not None
    assert bits(allowed) == set(b"b!")
    assert walk.follow([ord("!"), EOS, 5]) == 2
    assert walk.allowed() is None, "the answer has ended"
    assert walk.follow([5]) == 0
    walk.rewind()
    assert next_of(grammar) == before
    assert grammar.num_processed_tokens == 1
    assert not grammar.is_terminated()


def test_a_thought_is_free(compiled: Any) -> None:
    walk, grammar = walk_of(compiled, list(b"xyz"), constrained=False)
    assert walk.follow(list(b"anything")) == 8
    walk.rewind()
    assert grammar.num_processed_tokens == 0


def test_nothing_is_chosen_for_a_request_that_has_ended_before_its_last_token(compiled: Any) -> None:
    """Tokens behind the end were accepted too: the scheduler will cut them off."""
    walk, grammar = walk_of(compiled, [*b"b!", EOS, 7, 7], emitted="a1")
    assert walk.follow(list(b"xx")) == 2
    assert grammar.num_processed_tokens == 2
    assert not grammar.is_terminated()


@pytest.fixture(scope="module")
def backends() -> dict[str, Any]:
    """vLLM's own for 31 drafts, over the bundled checkpoint's tokenizer."""
    from transformers import PreTrainedTokenizerFast
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend
    from vllm.v1.structured_output.backend_outlines import OutlinesBackend
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLED_CHECKPOINT)
    config = SimpleNamespace(
        structured_outputs_config=SimpleNamespace(
            disable_any_whitespace=False, disable_additional_properties=False
        ),
        speculative_config=SimpleNamespace(num_speculative_tokens=31),
        model_config=None,
    )
    kinds = {"xgrammar": XgrammarBackend, "guidance": GuidanceBackend, "outlines": OutlinesBackend}
    return {name: kind(config, tokenizer, len(tokenizer)) for name, kind in kinds.items()}


@pytest.mark.parametrize("name", ["xgrammar", "guidance", "outlines"])
def test_every_backend_is_as_before_behind_a_whole_block_of_samples_and_drafts(
    backends: dict[str, Any], name: str
) -> None:
    backend = backends[name]
    grammar = backend.compile_grammar(StructuredOutputOptions.REGEX, "(ab)+c")
    tokenizer = backend.tokenizer
    a, b, c = (tokenizer.convert_tokens_to_ids(letter) for letter in "abc")
    assert grammar.accept_tokens("r", [a])

    def allowed() -> list[int]:
        mask = backend.allocate_token_bitmask(1)
        grammar.fill_bitmask(mask, 0)
        words: list[int] = mask[0].tolist()
        return words

    before = allowed()
    walk = behind(backend, grammar, [b, *[a, b] * 15])
    drafts = [*[a, b] * 14, c]
    if name == "outlines":  # not followed: it could not go back
        assert walk.follow([c, c]) == 2
    else:
        assert walk.follow(drafts) == len(drafts)
        assert walk.follow([c]) == 0
    walk.rewind()
    assert allowed() == before
    assert grammar.validate_tokens([b, c, c]) == [b, c]


def test_the_host_waits_once_for_all_rows() -> None:
    class Counted:
        def __init__(self, values: Any) -> None:
            self.values, self.copies = values, 0

        def tolist(self) -> Any:
            self.copies += 1
            return self.values

    rows, counts = Counted([[1, 2, 3], [4, 5, 6]]), Counted([2, 3])
    sampled = SampledTokens(rows, counts)  # type: ignore[arg-type]
    assert rows.copies == 0
    assert [sampled.of_row(0), sampled.of_row(1)] == [[1, 2], [4, 5, 6]]
    assert rows.copies == counts.copies == 1
