"""A server's policy: its costs by default, what other requests add, and what is kept of each request."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nemotron_diffusion_plugin.auto.arithmetic import (
    EFFICIENCY,
    MASK_MS,
    arithmetic_costs,
    cached_token_share,
    known_gpu,
)
from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.requests import AutoBlocks, Drafting, describe, make_policy, others_of
from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import PUBLISHED
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.settings import ServerSettings

SHAPE = PUBLISHED["8B"]
CONFIG = SimpleNamespace(
    hidden_size=SHAPE.hidden,
    intermediate_size=SHAPE.intermediate,
    num_hidden_layers=SHAPE.layers,
    num_attention_heads=SHAPE.heads,
    num_key_value_heads=SHAPE.kv_heads,
    head_dim=SHAPE.head_dim,
    vocab_size=SHAPE.vocab,
)
COSTS: dict[str, Any] = {"causal": [[1, 1.0], [40, 1.0], [80, 2.0]]}


def settings_of(**raw: object) -> ServerSettings:
    return ServerSettings.read(32, raw)


def drafting(mode: DecodingMode, block: int, kv: int = 0, has_grammar: bool = False) -> Drafting:
    return Drafting(SimpleNamespace(), mode, block, kv, has_grammar)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("Some other card", "h200"),
        ("", "h200"),
    ],
)
def test_known_gpus(device: str, name: str) -> None:
    assert known_gpu(device) == name


@pytest.mark.parametrize("rows", [1, 32, 200, 1024, 4096])
def test_the_arithmetic_is_that_of_the_roofline(rows: int) -> None:
    gpu = GPUS["h200"].at(EFFICIENCY, EFFICIENCY)
    floor = forward_cost(SHAPE.network, rows, 0, 1, Precision()).floor_time(gpu) * 1e3
    costs = arithmetic_costs(CONFIG, "NVIDIA H200")
    for bidirectional in (False, True):
        assert costs.forward_ms(rows, 0, bidirectional) == pytest.approx(floor, rel=0.01)


def test_cached_tokens_take_the_time_to_read_them() -> None:
    costs = arithmetic_costs(CONFIG, "NVIDIA H200")
    read = forward_cost(SHAPE.network, 0, 1000, 1, Precision()).kv_bytes / (
        GPUS["h200"].bandwidth * EFFICIENCY * 1e12
    )
    assert costs.ms_per_kv_token * 1000 == pytest.approx(read * 1e3)
    assert costs.ms_per_kv_token == pytest.approx(cached_token_share(CONFIG) * costs.causal[0][1], rel=1e-3)


def test_ranks_share_the_work() -> None:
    one, four = (arithmetic_costs(CONFIG, "NVIDIA H200", ranks) for ranks in (1, 4))
    assert four.forward_ms(300, 500, True) == pytest.approx(one.forward_ms(300, 500, True) / 4)


def test_a_given_table_wins() -> None:
    """What it does not say is arithmetic's."""
    arithmetic = arithmetic_costs(CONFIG, "")
    policy = make_policy(settings_of(forward_costs=COSTS), CONFIG, "NVIDIA H200", 1, Engine())
    assert policy.costs == replace(
        ForwardCosts.read(COSTS), eager_ms=arithmetic.eager_ms, ms_per_mask=arithmetic.ms_per_mask
    )
    full = COSTS | {"eager_ms": 1.5, "ms_per_mask": 0}
    policy = make_policy(settings_of(forward_costs=full), CONFIG, "", 1, Engine())
    assert policy.costs == ForwardCosts.read(full)
    assert make_policy(settings_of(), CONFIG, "", 1, Engine()).costs == arithmetic


def test_a_mask_takes_time_by_the_vocabulary() -> None:
    assert arithmetic_costs(CONFIG, "").ms_per_mask == pytest.approx(MASK_MS)
    small = SimpleNamespace(**vars(CONFIG) | {"vocab_size": SHAPE.vocab // 4})
    assert arithmetic_costs(small, "").ms_per_mask == pytest.approx(MASK_MS / 4)


@pytest.mark.parametrize(
    ("raw", "device", "said"),
    [
        ({}, "NVIDIA B200", "blocks of 32, 16, 8 or AR by what forwards take here, measured at start"),
        (
            {"forward_costs": "arithmetic"},
            "NVIDIA B200",
            "blocks of 32, 16, 8 or AR by arithmetic for the B200",
        ),
        (
            {"auto_block_sizes": [4], "forward_costs": "arithmetic"},
            "Odd",
            "blocks of 4 or AR by arithmetic for the H200, as 'Odd' is not known",
        ),
        ({"forward_costs": COSTS}, "NVIDIA H200", "by the given table"),
    ],
)
def test_the_log_says_by_what_it_chooses(raw: dict[str, Any], device: str, said: str) -> None:
    assert said in describe(settings_of(**raw), device)


def test_what_other_requests_add() -> None:
    policy = make_policy(settings_of(), CONFIG, "", 1, Engine())
    expected = float(policy.estimate().tokens(np.array([16]))[0])
    others = others_of(
        [
            drafting(DecodingMode.AR, 1, 100),
            drafting(DecodingMode.SELF_SPECULATION, 16, 30, has_grammar=True),
            drafting(DecodingMode.DIFFUSION, 32, 7),
        ],
        policy,
    )
    assert (others.verify_rows, others.verify_kv) == (1 + 16, 130)
    assert (others.draft_rows, others.draft_kv) == (16 + 32, 37)
    assert (others.verify_lengths, others.draft_lengths) == ({1, 16}, {16, 32})
    assert others.tokens == pytest.approx(1 + expected + 1)
    assert others.masks == 16


class TestAutoBlocks:
    def blocks(self) -> AutoBlocks:
        return AutoBlocks(make_policy(settings_of(forward_costs=COSTS), CONFIG, "", 1, Engine()))

    def test_what_a_request_accepts_stays_with_it(self) -> None:
        blocks = self.blocks()
        good, bad = drafting(DecodingMode.AUTO, 32), drafting(DecodingMode.AUTO, 32)
        for _ in range(20):
            blocks.observe(good.request, 31, 31)
            blocks.observe(bad.request, 31, 0)
        assert blocks.choose([bad, good], []) == [1, 32]
        assert blocks.choose([good, bad], []) == [32, 1]

    def test_others_are_seen(self) -> None:
        blocks = self.blocks()
        assert blocks.choose([drafting(DecodingMode.AUTO, 32)], []) == [32]
        beside = [drafting(DecodingMode.AR, 1)] * 39
        assert self.blocks().choose([drafting(DecodingMode.AUTO, 32)], beside) == [1]

    def test_a_grammar_is_seen(self) -> None:
        costs = COSTS | {"ms_per_mask": 0.5}
        blocks = AutoBlocks(make_policy(settings_of(forward_costs=costs), CONFIG, "", 1, Engine()))
        plain, json = (drafting(DecodingMode.AUTO, 32, has_grammar=grammar) for grammar in (False, True))
        for one in (plain, json):
            for _ in range(20):
                blocks.observe(one.request, 31, 12)
        assert blocks.choose([plain, json], []) == [32, 1]

    def test_measured_costs_keep_what_they_leave_open(self) -> None:
        blocks = self.blocks()
        before = blocks.policy.costs
        blocks.adopt(ForwardCosts(((1, 3.0),), ((1, 4.0),), 0.0, eager_ms=5.0))
        assert blocks.policy.costs == ForwardCosts(((1, 3.0),), ((1, 4.0),), 0.0, 5.0, before.ms_per_mask)

    def test_nothing_to_choose_nothing_to_learn(self) -> None:
        blocks, request = self.blocks(), SimpleNamespace()
        assert blocks.choose([], [drafting(DecodingMode.AR, 1)]) == []
        blocks.observe(request, 0, 0)
        assert not vars(request)
