"""What the rows of a verify forward emit, with logits made up row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.core import Request as ServedRequest
from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker.acceptance import Acceptance, Outcome, made_up_acceptance
from nemotron_diffusion_plugin.sglang.worker.penalties import OutputCounts
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep
from tests.sglang.parts.sampled import batch_of, params
from tests.sglang.parts.verify_rows import causal_rows, emitted

pytestmark = pytest.mark.engine

VOCAB = 12
BLOCK = 8
MASK = 11
SLOTS = 9
SEED_TOKEN = 1
START = 10
"""The position of every request's last token: a prompt of 10 tokens and one that was emitted."""


@dataclass
class Request:
    """One block of a verify forward; row i of `logits` `[1 + drafts, V]` follows draft i - 1."""

    drafts: list[int]
    logits: torch.Tensor
    mode: str = "self_speculation"
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    masks_from: int | None = None
    min_tokens: int = 0
    stops: tuple[int, ...] = ()
    start: int = START

    @property
    def params(self) -> Any:
        greedy = {"top_k": 1} if "temperature" not in self.sampling else {}
        return params(**greedy, **self.sampling)


def favour(*tokens: int, second: int | None = None) -> torch.Tensor:
    """Logits whose most likely tokens are these, one row each."""
    logits = torch.linspace(0.0, 0.5, VOCAB).repeat(len(tokens), 1)
    if second is not None:
        logits[:, second] = 4.0
    logits[torch.arange(len(tokens)), list(tokens)] = 5.0
    return logits


class Engine:
    """A batch in which the first request waits for its block and takes no part; slots are not in order of rows."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self.table = SlotTable(ServerSettings.read(BLOCK, None), SLOTS, MASK, torch.device("cpu"))
        self.noise_seeds = torch.zeros(SLOTS, dtype=torch.int64)
        self.counts = OutputCounts(SLOTS, VOCAB, torch.device("cpu"))
        self.acceptance = Acceptance(self.table, self.noise_seeds, self.counts, TorchOperators())
        self.slots = np.array([(5 * row + 3) % SLOTS for row in range(len(requests) + 1)])
        for slot, one in zip(self.slots[1:], self.requests, strict=True):
            self._take(int(slot), one)

    def _take(self, slot: int, one: Request) -> None:
        width = 1 + len(one.drafts)
        size = 1 if one.mode == "ar" else width
        self.table.take(
            slot,
            ServedRequest(
                self.table.settings.options({"decoding_mode": one.mode, "block_size": max(size, 1)}),
                START,
                limit=1000,
                temperature=one.sampling.get("temperature", 0.0),
                min_tokens=one.min_tokens,
                stop_ids=one.stops,
            ),
        )
        self.noise_seeds[slot] = one.seed
        self.counts.take(slot, one.params, [SEED_TOKEN])
        if one.mode == "diffusion":
            self.table.begin_blocks(np.array([slot]), np.array([one.start]), torch.tensor([SEED_TOKEN]), 1000)
            end = width if one.masks_from is None else one.masks_from
            self.table.blocks.masked[slot, :end] = False

    def decide(
        self,
        logit_bias: torch.Tensor | None = None,
        return_logprob: bool = False,
        grammar: Callable[[torch.Tensor], None] | None = None,
    ) -> Outcome:
        widths = np.array([1 + len(one.drafts) for one in self.requests])
        rows = np.arange(1, len(self.slots))
        index = torch.from_numpy(self.slots)
        starts = torch.tensor([one.start for one in self.requests])
        blocks = causal_rows(index[rows], starts, widths)
        chain = torch.zeros(len(rows), int(widths.max()), dtype=torch.int64)
        for row, one in enumerate(self.requests):
            chain[row, : widths[row]] = torch.tensor([SEED_TOKEN, *one.drafts])
        everybody = [params(temperature=9.0), *(one.params for one in self.requests)]
        batch = batch_of(everybody, logit_bias, return_logprob)
        size = len(self.slots)
        step = DecodeStep(
            batch, self.slots, index, torch.full((size,), START), torch.full((size,), SEED_TOKEN)
        )
        logits = torch.cat([one.logits for one in self.requests])
        return self.acceptance.decide(step, rows, blocks, chain, logits, grammar)


def decided(*requests: Request, **options: Any) -> list[list[int]]:
    return emitted(Engine(requests).decide(**options))


@pytest.mark.parametrize(
    ("drafts", "picks", "expected"),
    [
        ([2, 3, 4], [2, 3, 4, 5], [2, 3, 4, 5]),
        ([2, 3, 4], [2, 7, 4, 5], [2, 7]),
        ([2, 3, 4], [7, 3, 4, 5], [7]),
        ([2, 3, 4], [2, 3, 7, 5], [2, 3, 7]),
        ([2], [2, 6], [2, 6]),
        ([], [6], [6]),
        ([0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
    ids=str,
)
def test_self_speculation(drafts: list[int], picks: list[int], expected: list[int]) -> None:
    assert decided(Request(drafts, favour(*picks))) == [expected]


def test_made_up_acceptance() -> None:
    """Without weights a cycle emits as many tokens as it is told, at most its drafts and one more."""
    engine = Engine(
        [
            Request([2, 3, 4, 5], favour(9, 9, 9, 9, 9)),
            Request([2], favour(9, 9)),
            Request([], favour(6), "ar"),
            Request([2, 3, 4], favour(9, 9, 9, 9), "diffusion"),
        ]
    )
    engine.acceptance.synthetic = 3.0
    assert emitted(engine.decide()) == [[2, 3, 9], [2, 9], [6], [2, 3, 4, 9]]


def test_made_up_acceptance_on_average() -> None:
    torch.manual_seed(0)
    accepted = made_up_acceptance(2.75, torch.full((4000,), 7))
    assert accepted.unique().tolist() == [1, 2]
    assert abs(accepted.double().mean() - 1.75) < 0.03
    assert made_up_acceptance(1.0, torch.tensor([7, 0])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("drafts", "masks_from", "expected"),
    [
        ([2, 3, 4, 5, 6, 7, 8], None, [2, 3, 4, 5, 6, 7, 8, 9]),
        ([2, 3, 4], None, [2, 3, 4, 9]),  # a block that the context limit has cut
        ([2, 3, MASK, MASK], 3, [2, 3, 9]),  # a stop token ended its denoising
        ([MASK, MASK, MASK], 1, [9]),
        ([], None, [9]),
    ],
    ids=str,
)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}], ids=["greedy", "sampled"])
def test_diffusion_stands_as_planned(
    drafts: list[int], masks_from: int | None, expected: list[int], sampling: dict[str, float]
) -> None:
    """Whatever the causal rows say; only the token behind the block is theirs."""
    logits = favour(*[9] * (len(drafts) + 1)) * 20
    block = Request(drafts, logits, "diffusion", sampling, masks_from=masks_from)
    assert decided(block) == [expected]


def test_a_batch_of_every_mode_and_width() -> None:
    requests = [
        Request([2, 3, 4], favour(2, 7, 4, 5)),
        Request([], favour(6), "ar"),
        Request([2, 3, 4, 5, 6, 7, 8], favour(*[9] * 8), "diffusion"),
        Request([5], favour(5, 4)),
        Request([3, MASK], favour(8, 7, 6), "diffusion", masks_from=2),
        Request([], favour(0), "ar"),
    ]
    expected = [[2, 7], [6], [2, 3, 4, 5, 6, 7, 8, 9], [5, 4], [3, 7], [0]]
    assert decided(*requests) == expected
    assert decided(*reversed(requests)) == expected[::-1]
    for request, tokens in zip(requests, expected, strict=True):
        assert decided(request) == [tokens]


@pytest.mark.parametrize("min_tokens", range(7))
def test_no_stop_token_before_min_tokens(min_tokens: int) -> None:
    """Row i decides the request's token 1 + i, counted from 0: the one before it came with the prompt."""
    stop, second = 7, 5
    expected = [stop if 1 + row >= min_tokens else second for row in range(5)]
    request = Request(
        expected[:4], favour(*[stop] * 5, second=second), min_tokens=min_tokens, stops=(stop, 3)
    )
    other = Request([7], favour(7, 7), stops=(7,))
    assert decided(other, request, other) == [[7, 7], expected, [7, 7]]


def test_a_request_without_stop_tokens_may_have_min_tokens() -> None:
    assert decided(Request([2], favour(2, 3), min_tokens=9)) == [[2, 3]]


def test_logit_bias_is_that_of_the_row() -> None:
    requests = [Request([2, 3], favour(2, 3, 4)), Request([2, 3], favour(2, 3, 4))]
    bias = torch.zeros(3, VOCAB)
    bias[0] = torch.randn(VOCAB) * 100  # the request that takes no part
    bias[2, 6] = 50.0
    assert decided(*requests, logit_bias=bias) == [[2, 3, 4], [6]]


def test_penalties_see_the_drafts_before_a_row() -> None:
    repeating = Request([4, 4, 4], favour(4, 4, 4, 4, second=6), sampling={"frequency_penalty": 0.6})
    plain = Request([4, 4, 4], favour(4, 4, 4, 4, second=6))
    engine = Engine([repeating, plain])
    assert emitted(engine.decide()) == [[4, 4, 6], [4, 4, 4, 4]]
    logits = torch.zeros(1, VOCAB)
    engine.counts.apply(int(engine.slots[1]), logits, torch.tensor([6]))
    counted = (-logits[0] / 0.6).round().int().tolist()
    assert {token: times for token, times in enumerate(counted) if times} == {SEED_TOKEN: 1, 4: 2, 6: 1}


class TestGrammar:
    """The mask comes as rows of the padded chains, before anything is picked."""

    requests = (Request([], favour(6, second=9), "ar"), Request([2, 3], favour(2, 3, 4, second=9)))

    @staticmethod
    def forbid(row: int, token: int) -> Callable[[torch.Tensor], None]:
        def mask(logits: torch.Tensor) -> None:
            assert logits.shape == (2 * 3, VOCAB)
            logits[row, token] = -torch.inf

        return mask

    @pytest.mark.parametrize(
        ("row", "token", "expected"),
        [
            (0, 6, [[9], [2, 3, 4]]),
            (3, 2, [[6], [9]]),
            (4, 3, [[6], [2, 9]]),
            (5, 4, [[6], [2, 3, 9]]),
            (1, 6, [[6], [2, 3, 4]]),  # past the block of the first request
        ],
    )
    def test_before_the_pick(self, row: int, token: int, expected: list[list[int]]) -> None:
        assert decided(*self.requests, grammar=self.forbid(row, token)) == expected

    def test_no_bias_brings_a_forbidden_token_back(self) -> None:
        bias = torch.zeros(3, VOCAB)
        bias[2, 3] = 100.0
        outcome = Engine(self.requests).decide(
            grammar=self.forbid(3, 3), logit_bias=bias, return_logprob=True
        )
        assert emitted(outcome) == [[6], [2, 3, 3]]
        assert outcome.logits is not None
        assert torch.isneginf(outcome.logits[1, 0, 3])

    def test_sampled_tokens_keep_to_it(self) -> None:
        warm = [Request([4], favour(4, 4) * 0, sampling={"temperature": 1.0}, seed=s) for s in range(8)]

        def only(logits: torch.Tensor) -> None:
            logits[:, [token for token in range(VOCAB) if token not in (2, 8)]] = -torch.inf

        assert {row[-1] for row in decided(*warm, grammar=only)} == {2, 8}
        assert all(len(row) == 1 for row in decided(*warm, grammar=only))


def test_logits_are_kept_only_for_logprobs() -> None:
    requests = [Request([2, 3], favour(2, 3, 4)), Request([], favour(6), "ar")]
    bias = torch.zeros(3, VOCAB)
    bias[2, 5] = 1.5
    assert Engine(requests).decide(logit_bias=bias).logits is None
    assert Engine(requests).decide(grammar=lambda logits: None).logits is None
    logits = Engine(requests).decide(logit_bias=bias, return_logprob=True).logits
    assert logits is not None
    assert torch.equal(logits[0], favour(2, 3, 4))
    assert torch.equal(logits[1, 0], favour(6)[0] + bias[2])
    assert not logits[1, 1:].any()


class TestSampled:
    def test_a_seed_draws_the_same_alone_and_in_a_batch(self) -> None:
        generator = torch.Generator().manual_seed(5)
        requests = [
            Request(
                torch.randint(VOCAB, (width - 1,), generator=generator).tolist(),
                torch.randn(width, VOCAB, generator=generator) * 2,
                mode,
                sampling,
                seed=100 + width,
            )
            for width, mode, sampling in [
                (4, "self_speculation", {"temperature": 0.9}),
                (1, "ar", {"temperature": 1.2, "top_p": 0.8}),
                (3, "self_speculation", {}),
                (8, "self_speculation", {"temperature": 0.5, "min_p": 0.02}),
                (6, "diffusion", {"temperature": 1.0}),
                (2, "self_speculation", {"temperature": 1.5, "top_k": 5}),
            ]
        ]
        together = decided(*requests)
        assert together == [decided(request)[0] for request in requests]
        assert decided(*reversed(requests)) == together[::-1]

    def test_the_noise_is_that_of_the_position(self) -> None:
        """So it makes no difference at which places the steps began."""
        warm, flat = {"temperature": 1.0}, torch.zeros(1, VOCAB)
        for seed in range(6):
            drafts = [2, 3, 4]
            speculating = Request(drafts, torch.cat([favour(*drafts) * 100, flat]), sampling=warm, seed=seed)
            alone = Request([], flat, "ar", warm, seed=seed, start=START + len(drafts))
            assert decided(speculating)[0] == [*drafts, *decided(alone)[0]]

    def test_other_seeds_draw_other_tokens(self) -> None:
        flat = [
            Request([], torch.zeros(1, VOCAB), "ar", {"temperature": 1.0}, seed=seed) for seed in range(8)
        ]
        assert len({row[0] for row in decided(*flat)}) > 3

    def test_a_greedy_neighbour_stays_greedy(self) -> None:
        greedy = Request([2, 3], favour(2, 3, 4))
        warm = Request([2, 3], favour(2, 3, 4) * 0, sampling={"temperature": 2.0})
        assert decided(warm, greedy, warm)[1] == [2, 3, 4]

    @pytest.mark.parametrize(("certain", "expected"), [((2, 3), [2, 3]), ((2, 9), [2, 9]), ((9, 3), [9])])
    def test_a_draft_without_probability_is_rejected(
        self, certain: tuple[int, int], expected: list[int]
    ) -> None:
        """And one that is certain is accepted."""
        logits = favour(*certain, 4) * 100
        tokens = decided(Request([2, 3], logits, sampling={"temperature": 0.5}))[0]
        assert tokens[: len(expected)] == expected
