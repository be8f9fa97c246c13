"""A verify forward in parts: each is decided on its own, and their rows come together in the order of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from sglang.srt.constrained.base_grammar_backend import BaseGrammarObject

from nemotron_diffusion_plugin.core import Blocks, Request
from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker import verification
from nemotron_diffusion_plugin.sglang.worker.forward import LogitsOutput, PreparedRows
from nemotron_diffusion_plugin.sglang.worker.slots import WorkerSlots
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep
from nemotron_diffusion_plugin.sglang.worker.verification import Verified, Verifier
from tests.sglang.parts.sampled import batch_of, params
from tests.sglang.parts.verify_rows import prepared

pytestmark = pytest.mark.engine

VOCAB = 20
WIDTHS = [4, 1, 2, 4, 1]
SLOTS = np.array([6, 2, 0, 5, 3, 1])
"""The request of the first row waits for its block."""

SEED_TOKEN = 3
COMPUTED = 10


class Forward:
    """A target whose next token is always the one after; it takes `most` requests, of one width if not ragged."""

    vocab_size = VOCAB

    def __init__(self, most: int, ragged: bool) -> None:
        self.most, self.ragged = most, ragged
        self.seen: list[list[int]] = []
        self.runs = 0

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        start = 0
        while start < len(rows):
            stop = start + 1
            while (
                stop < len(rows) and stop - start < self.most and (self.ragged or rows[stop] == rows[start])
            ):
                stop += 1
            yield slice(start, stop)
            start = stop

    def prepare(self, blocks: Blocks, causal: bool) -> PreparedRows:
        assert causal
        assert blocks.starts.tolist() == blocks.start_bounds.tolist() == [COMPUTED] * len(blocks.lengths)
        self.seen.append(blocks.lengths.tolist())
        return prepared(blocks)

    def run(self, laid: PreparedRows, token_ids: torch.Tensor) -> LogitsOutput:
        self.runs += 1
        return LogitsOutput(torch.nn.functional.one_hot((token_ids + 1) % VOCAB, VOCAB).float() * 9, None)


def verify(forward: Forward, rows: np.ndarray, return_logprob: bool = False, grammar: Any = None) -> Verified:
    requests = WorkerSlots(ServerSettings.read(4, None), 8, VOCAB - 1, VOCAB, torch.device("cpu"))
    for slot, width in zip(SLOTS[1:], WIDTHS, strict=True):
        options = requests.table.settings.options({"decoding_mode": "self_speculation", "block_size": width})
        requests.table.take(int(slot), Request(options, COMPUTED, limit=1000))
        requests.counts.take(int(slot), params(top_k=1), [SEED_TOKEN])
    batch = batch_of([params(top_k=1)] * len(SLOTS), return_logprob=return_logprob)
    batch.has_grammar = grammar is not None
    batch.sampling_info.vocab_size = VOCAB
    for row, req in enumerate(batch.reqs):
        req.grammar = grammar if row in (0, 1, 4) else None
    size = len(SLOTS)
    step = DecodeStep(
        batch, SLOTS, torch.from_numpy(SLOTS), torch.full((size,), COMPUTED), torch.full((size,), SEED_TOKEN)
    )
    requests.table.place(SLOTS, step.index, step.computed, step.computed.numpy())
    chain = torch.arange(SEED_TOKEN, SEED_TOKEN + 4).repeat(size, 1)
    chain[3, 1] = 0  # a draft that is rejected, of the block of width 2
    chain[4, 2] = 0
    return Verifier(forward, requests, TorchOperators()).verify(step, rows, chain)  # type: ignore[arg-type]


EXPECTED = [[0, 0, 0, 0], [4, 5, 6, 7], [4, 0, 0, 0], [4, 0, 0, 0], [4, 5, 0, 0], [4, 0, 0, 0]]
LENGTHS = [0, 4, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("most", "ragged", "parts"),
    [
        (9, True, [WIDTHS]),
        (2, True, [[4, 1], [2, 4], [1]]),
        (9, False, [[1, 1], [2], [4, 4]]),
        (1, False, [[1], [1], [2], [4], [4]]),
    ],
)
def test_parts(most: int, ragged: bool, parts: list[list[int]]) -> None:
    forward = Forward(most, ragged)
    verified = verify(forward, np.arange(1, 6))
    assert forward.seen == parts
    assert verified.tokens.tolist() == EXPECTED
    assert verified.lengths.tolist() == LENGTHS
    assert verified.seeds.tolist() == [SEED_TOKEN, 7, 4, 4, 5, 4]
    assert verified.output.next_token_logits is None


@pytest.mark.parametrize("most", [1, 9])
def test_logprobs_get_every_row_of_every_request(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        verification, "compute_spec_logprobs", lambda *given, **named: asked.append((*given, named))
    )
    verified = verify(Forward(most, ragged=True), np.arange(1, 6), return_logprob=True)
    [(_, output, tokens, named)] = asked
    assert named == {"chain_stride": 4}
    assert tokens.tolist() == verified.tokens.flatten().tolist()
    logits = output.next_token_logits.view(6, 4, VOCAB)
    assert not logits[0].any()
    for row, length in enumerate(LENGTHS):
        assert logits[row, :length].argmax(1).tolist() == EXPECTED[row][:length]


@pytest.mark.parametrize("return_logprob", [False, True])
def test_everybody_waits(return_logprob: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "compute_spec_logprobs", lambda *given, **named: None)
    forward = Forward(9, ragged=True)
    verified = verify(forward, np.arange(0), return_logprob)
    assert forward.seen == []
    assert not verified.lengths.any()
    assert verified.seeds.tolist() == [SEED_TOKEN] * 6
    logits = verified.output.next_token_logits
    assert logits.shape == (6, VOCAB) if return_logprob else logits is None


class OnlyNine(BaseGrammarObject):  # type: ignore[misc]
    """Allows token 9 alone; notes behind how many forwards a mask was filled."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.forward = forward
        self.filled: list[int] = []

    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: Any) -> torch.Tensor:
        return torch.full((batch_size, 1), -1, dtype=torch.int32)

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        self.filled.append(self.forward.runs)
        vocab_mask[idx] = 1 << 9

    @staticmethod
    def apply_vocab_mask(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
        bits = (vocab_mask >> torch.arange(VOCAB, dtype=torch.int32)) & 1
        logits.masked_fill_(bits == 0, -torch.inf)


@pytest.mark.parametrize(("most", "filled"), [(9, [1, 1]), (3, [1, 2])])
def test_grammars_are_asked_while_their_part_is_under_way(most: int, filled: list[int]) -> None:
    """The request that waits has one too, and is not asked."""
    forward = Forward(most, ragged=True)
    grammar = OnlyNine(forward)
    verified = verify(forward, np.arange(1, 6), grammar=grammar)
    assert grammar.filled == filled, "drafts are forbidden, so each chain has one mask"
    expected = [list(row) for row in EXPECTED]
    expected[1] = expected[4] = [9, 0, 0, 0]
    assert verified.tokens.tolist() == expected
    assert verified.lengths.tolist() == [0, 1, 1, 1, 1, 1]
