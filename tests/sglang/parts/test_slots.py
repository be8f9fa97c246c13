"""What becomes of SGLang's requests in the request table, and of a diffusion request that is retracted."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from sglang.srt.sampling import sampling_params
from sglang.srt.sampling.sampling_params import SamplingParams

from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.parameters import (
    is_greedy,
    own_options,
    request_options,
    stop_token_ids,
)
from nemotron_diffusion_plugin.sglang.worker.acceptance import Outcome
from nemotron_diffusion_plugin.sglang.worker.requests import noise_seed
from nemotron_diffusion_plugin.sglang.worker.resume import ForcedSeed, forced_seed, give_back_seed
from nemotron_diffusion_plugin.sglang.worker.slots import WorkerSlots

pytestmark = pytest.mark.engine

MASK = 100
VOCAB = 128
CONTEXT = 64


def request(tokenizer: Any = None, eos: set[int] | None = None, slot: int = 1, **params: Any) -> Any:
    return SimpleNamespace(
        rid="abc",
        origin_input_ids=array("q", range(10)),
        output_ids=array("q"),
        sampling_params=SamplingParams(**{"temperature": 0.0, **params}),
        eos_token_ids=eos,
        tokenizer=tokenizer,
        kv=SimpleNamespace(req_pool_idx=slot),
        return_logprob=False,
        logprob=None,
        inflight_middle_chunks=0,
    )


def tokenizer(eos: int | None, *more: int) -> Any:
    return SimpleNamespace(eos_token_id=eos, additional_stop_token_ids=set(more) or None)


@pytest.fixture
def requests() -> WorkerSlots:
    return WorkerSlots(ServerSettings.read(8, None), 4, MASK, VOCAB, torch.device("cpu"))


class TestStopTokens:
    @pytest.mark.parametrize(
        ("params", "eos", "of_tokenizer", "expected"),
        [
            ({}, None, None, []),
            ({"stop_token_ids": [9, 7, 9]}, None, None, [7, 9]),
            ({"stop_token_ids": [9]}, {2, 3}, None, [2, 3, 9]),
            ({}, {2}, tokenizer(2), [2]),
            ({"stop_token_ids": [9]}, {2}, tokenizer(11, 4, 5), [2, 4, 5, 9, 11]),
            ({}, None, tokenizer(None), []),
            ({"stop_token_ids": [9], "ignore_eos": True}, {2}, tokenizer(11, 4), []),
        ],
    )
    def test_ids(self, params: dict[str, Any], eos: Any, of_tokenizer: Any, expected: list[int]) -> None:
        assert stop_token_ids(request(of_tokenizer, eos, **params)) == expected


class TestNoiseSeed:
    @pytest.mark.parametrize("given", [0, 7, -3, 2**63 - 1, -(2**63)])
    def test_its_own(self, given: int) -> None:
        assert noise_seed(request(sampling_seed=given)) == given

    def test_made_of_the_id(self) -> None:
        assert noise_seed(request()) == noise_seed(request(temperature=0.7)) == 1613825014887689974
        other = request()
        other.rid = "abd"
        assert noise_seed(other) != noise_seed(request())

    def test_fits_the_table(self, requests: WorkerSlots) -> None:
        for number in range(200):
            one = request()
            one.rid = str(number)
            assert 0 <= noise_seed(one) < 2**62


def test_options_are_told_from_sglangs_own_names() -> None:
    engine = {
        "thinking_budget": 4,
        "__req__": object(),
        sampling_params.REQUEST_REASONING_END_TOKEN_IDS_KEY: [1],
        sampling_params.REQUEST_REASONING_IN_GRAMMAR_KEY: True,
    }
    assert own_options({"threshold": 0.5, "typo": 1, **engine}) == {"threshold": 0.5, "typo": 1}
    assert own_options(None) is None
    assert own_options([1]) == [1]


def test_options_are_read_once() -> None:
    one, settings = request(custom_params={"threshold": 0.5}), ServerSettings.read(8, None)
    options = request_options(settings, one)
    assert options.threshold == 0.5
    assert request_options(settings, one) is options


@pytest.mark.parametrize(
    ("params", "greedy"),
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": 0.7, "top_k": 1}, True),
        ({"temperature": 0.7, "top_k": 2}, False),
        ({"temperature": 0.7, "top_k": -1}, False),
    ],
)
def test_greedy(params: dict[str, Any], greedy: bool) -> None:
    assert is_greedy(SamplingParams(**params)) is greedy


class TestTake:
    def test_table(self, requests: WorkerSlots) -> None:
        options = {"decoding_mode": "diffusion", "block_size": 4, "threshold": 0.3, "thinking_budget": 1}
        requests.ended[2] = True
        requests.take(
            request(
                slot=2,
                temperature=0.5,
                stop_token_ids=[7, 9],
                min_new_tokens=4,
                max_new_tokens=20,
                custom_params=options,
            ),
            CONTEXT,
        )
        table = requests.table
        assert table.is_diffusion(np.array([2]))[0]
        assert (table.longest[2], table.temperature[2], table.prompt_len[2]) == (4, 0.5, 10)
        assert (table.banned_until[2], int(table.limit[2])) == (14, 30)
        assert float(table.rules.threshold[2]) == pytest.approx(0.3)
        assert table.is_stop(torch.tensor([2]), torch.tensor([[7, 8, 9]])).tolist() == [[True, False, True]]
        assert not requests.ended[2]

    def test_limit_is_that_of_the_context(self, requests: WorkerSlots) -> None:
        requests.take(request(max_new_tokens=500), CONTEXT)
        assert int(requests.table.limit[1]) == CONTEXT

    @pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 1}], ids=str)
    def test_greedy_is_temperature_0(self, params: dict[str, Any], requests: WorkerSlots) -> None:
        requests.take(request(**params), CONTEXT)
        assert requests.table.temperature[1] == 0

    @pytest.mark.parametrize(
        ("params", "exact"),
        [
            ({}, True),
            ({"temperature": 0.7, "top_p": 0.5}, True),
            ({"sampling_seed": 5}, True),
            ({"temperature": 0.7, "sampling_seed": 5}, False),
            ({"frequency_penalty": 0.1}, False),
            ({"presence_penalty": 0.1}, False),
            ({"repetition_penalty": 1.1}, False),
            ({"min_new_tokens": 1}, False),
        ],
        ids=str,
    )
    def test_who_may_use_sglangs_sampler(
        self, params: dict[str, Any], exact: bool, requests: WorkerSlots
    ) -> None:
        requests.engine_samples[1] = not exact
        requests.take(request(**params), CONTEXT)
        assert bool(requests.engine_samples[1]) is exact

    def test_a_retracted_request_keeps_its_penalties(self, requests: WorkerSlots) -> None:
        one = request(frequency_penalty=1.0)
        one.output_ids = array("q", [5, 5, 6])
        requests.take(one, CONTEXT)
        logits = torch.zeros(1, VOCAB)
        requests.counts.apply(1, logits, torch.tensor([6]))
        assert {int(token): -float(logits[0, token]) for token in logits[0].nonzero()} == {5: 2.0, 6: 1.0}


class TestEnded:
    def ended(self, requests: WorkerSlots, tokens: list[int], length: int, computed: int) -> bool:
        padded = torch.tensor([[*tokens, *[0] * (4 - len(tokens))]] * 2)
        outcome = Outcome(padded, torch.tensor([length, 1]))
        index = torch.tensor([1, 3])
        requests.note_ended(index, torch.tensor([computed, 10]), outcome)
        assert not requests.ended[0]
        assert not requests.ended[3]
        return bool(requests.ended[1])

    @pytest.fixture(autouse=True)
    def _taken(self, requests: WorkerSlots) -> None:
        requests.take(request(stop_token_ids=[7], max_new_tokens=10, slot=1), CONTEXT)
        requests.take(request(max_new_tokens=40, slot=3), CONTEXT)

    @pytest.mark.parametrize(
        ("tokens", "length", "expected"),
        [
            ([5, 6], 2, False),
            ([5, 7], 2, True),
            ([7, 5], 2, True),
            ([5, 7], 1, False),  # not emitted
            ([5, 6, 8, 7], 4, True),
        ],
    )
    def test_stop_tokens(self, tokens: list[int], length: int, expected: bool, requests: WorkerSlots) -> None:
        assert self.ended(requests, tokens, length, computed=10) is expected

    @pytest.mark.parametrize(("computed", "expected"), [(16, False), (17, True), (18, True)])
    def test_limit(self, computed: int, expected: bool, requests: WorkerSlots) -> None:
        """A prompt of 10 and at most 10 more; with 17 computed tokens and the seed, 2 more make 20."""
        assert self.ended(requests, [5, 6], 2, computed) is expected

    def test_a_request_that_goes_on_is_not_ended_any_more(self, requests: WorkerSlots) -> None:
        assert self.ended(requests, [7], 1, 10)
        assert not self.ended(requests, [5], 1, 10)


def logprobs(number: int) -> Any:
    from sglang.srt.managers.schedule_batch import ReqLogprob

    made = ReqLogprob(top_logprobs_num=1, token_ids_logprob=None)
    for kind in ("token_logprobs", "top_logprobs", "token_ids_logprobs"):
        for part in ("val", "idx"):
            setattr(made, f"output_{kind}_{part}", [10 * place + 0.5 for place in range(number)])
    return made


class TestRetraction:
    @pytest.fixture
    def retracted(self) -> Any:
        one = request()
        one.output_ids = array("q", [21, 22, 23])
        return one

    def test_the_last_token_is_taken_back(self, retracted: Any) -> None:
        give_back_seed(retracted)
        assert retracted.output_ids.tolist() == [21, 22]
        assert forced_seed(retracted) == ForcedSeed(23, None, 2)

    def test_its_logprobs_too(self, retracted: Any) -> None:
        retracted.return_logprob, retracted.logprob = True, logprobs(3)
        give_back_seed(retracted)
        for kind in ("token_logprobs", "top_logprobs", "token_ids_logprobs"):
            for part in ("val", "idx"):
                assert getattr(retracted.logprob, f"output_{kind}_{part}") == [0.5, 10.5], (kind, part)
        assert forced_seed(retracted) == ForcedSeed(23, 20.5, 2)

    def test_lists_that_are_not_kept_stay_none(self, retracted: Any) -> None:
        retracted.return_logprob, retracted.logprob = True, logprobs(3)
        retracted.logprob.output_top_logprobs_val = None
        retracted.logprob.output_top_logprobs_idx = []
        give_back_seed(retracted)
        assert retracted.logprob.output_top_logprobs_val is None
        assert retracted.logprob.output_top_logprobs_idx == []

    def test_a_request_without_output_has_no_seed(self) -> None:
        fresh = request()
        give_back_seed(fresh)
        assert forced_seed(fresh) is None

    def test_every_chunk_of_the_prefill_finds_it(self, retracted: Any) -> None:
        """Only what the last chunk emits is taken in, and then it is over."""
        give_back_seed(retracted)
        for retracted.inflight_middle_chunks in (2, 1, 0):
            assert forced_seed(retracted) == ForcedSeed(23, None, 2)
        retracted.output_ids.append(23)
        assert forced_seed(retracted) is None

    def test_twice_before_its_prefill_is_taken_in(self, retracted: Any) -> None:
        give_back_seed(retracted)
        give_back_seed(retracted)
        assert retracted.output_ids.tolist() == [21, 22]
        assert forced_seed(retracted) == ForcedSeed(23, None, 2)

    @pytest.mark.parametrize("more", [[], [24], [24, 25]])
    def test_again_later(self, more: list[int], retracted: Any) -> None:
        give_back_seed(retracted)
        retracted.output_ids.extend([23, *more])
        give_back_seed(retracted)
        *before, last = [21, 22, 23, *more]
        assert retracted.output_ids.tolist() == before
        assert forced_seed(retracted) == ForcedSeed(last, None, len(before))
