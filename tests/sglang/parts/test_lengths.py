"""Where the host thinks a request stands is never before where it stands, and one step's rows ahead at most."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.core import Request
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker.lengths import HostLengths
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep

SLOTS, BLOCK, PROMPT = 4, 8, 5


def request() -> Any:
    return SimpleNamespace(
        origin_input_ids=[0] * PROMPT, output_ids=[], is_retracted=False, finished=lambda: False
    )


class Host:
    """A scheduler that reads the result of each step after the next one has been launched."""

    def __init__(self) -> None:
        self.lengths = HostLengths(SLOTS)
        self.pending: deque[Any] = deque()
        self.reqs: dict[int, Any] = {}
        self.exact: dict[int, int] = {}  # what the device knows

    def prefill(self, slot: int) -> None:
        self.reqs[slot], self.exact[slot] = request(), PROMPT
        self.lengths.prefilled(np.array([slot]), np.array([PROMPT]))
        self.pending.append(([self.reqs[slot]], [1], None))

    def step(self, accepted: dict[int, tuple[int, int]]) -> np.ndarray:
        """Launch a step with `(rows, accepted)` by slot; return the bounds it was launched with."""
        slots = np.array(list(accepted))
        rows = np.array([rows for rows, _ in accepted.values()])
        reqs = [self.reqs[slot] for slot in slots]
        bounds = self.lengths.bounds(slots, reqs)
        tenancies = self.lengths.verified(slots, rows)
        for slot, (_, count) in accepted.items():
            self.exact[slot] += count
        counts = [count for _, count in accepted.values()]
        self.pending.append((reqs, counts, (slots, rows, tenancies)))
        return bounds

    def read(self) -> None:
        reqs, counts, step = self.pending.popleft()
        for req, count in zip(reqs, counts, strict=True):
            req.output_ids += [0] * count
        if step is not None:
            self.lengths.read(*step)


@pytest.mark.parametrize("behind", [0, 1])
def test_bounds_hold_whatever_is_accepted(behind: int) -> None:
    """With `behind` steps in flight, as under the overlap schedule and without it; slots change hands meanwhile."""
    drawn, host = random.Random(behind), Host()
    for slot in range(SLOTS):
        host.prefill(slot)
    for _ in range(300):
        while len(host.pending) > behind:
            host.read()
        if drawn.random() < 0.1:
            host.prefill(drawn.randrange(SLOTS))
        chosen = sorted(drawn.sample(range(SLOTS), drawn.randint(1, SLOTS)))
        before = {slot: host.exact[slot] for slot in chosen}
        rows = {slot: drawn.randint(0, BLOCK) for slot in chosen}
        bounds = host.step(
            {slot: (count, drawn.randint(min(count, 1), count)) for slot, count in rows.items()}
        )
        for slot, bound in zip(chosen, bounds, strict=True):
            assert before[slot] <= bound <= before[slot] + BLOCK * (behind + 1)


@pytest.mark.parametrize("rows", [1, BLOCK])
def test_it_is_exact_where_every_row_is_accepted(rows: int) -> None:
    """AR and diffusion."""
    host = Host()
    host.prefill(0)
    for _ in range(20):
        before = host.exact[0]
        assert host.step({0: (rows, rows)}).tolist() == [before]
        host.read()


def test_a_late_result_of_the_last_tenant_says_nothing_of_the_next() -> None:
    host = Host()
    host.prefill(0)
    host.read()
    host.step({0: (BLOCK, 1)})
    host.prefill(0)
    host.read()
    assert host.step({0: (BLOCK, 1)}).tolist() == [PROMPT]
    host.read()
    assert host.step({0: (BLOCK, 1)}).tolist() == [PROMPT + BLOCK]


def test_an_output_that_was_cut_lowers_no_bound() -> None:
    host = Host()
    host.prefill(0)
    host.step({0: (BLOCK, BLOCK)})
    host.read()
    host.read()
    ended = host.reqs[0]
    ended.finished = lambda: True
    del ended.output_ids[2:]
    assert host.step({0: (1, 1)}).tolist() == [PROMPT + BLOCK]


LIMIT = 64


@pytest.mark.parametrize(
    ("exact", "mode", "known", "expected"),
    [
        (20, "self_speculation", False, 28),  # room for a block at the bound too: no wait
        (50, "self_speculation", False, 50),  # a bound of 58 would cut the block
        (50, "diffusion", False, 58),  # whose bounds are exact wherever it stands
        (50, "ar", False, 58),  # no block to cut
        (20, "self_speculation", True, 20),
    ],
)
def test_the_host_waits_near_the_limit_alone(exact: int, mode: str, known: bool, expected: int) -> None:
    table = SlotTable(ServerSettings.read(BLOCK, None), SLOTS, 0, torch.device("cpu"))
    table.take(1, Request(table.settings.options({"decoding_mode": mode}), PROMPT, limit=LIMIT))
    lengths, slots = HostLengths(SLOTS), np.array([1])
    lengths.prefilled(slots, np.array([exact]))
    lengths.verified(slots, np.array([BLOCK]))
    computed = torch.tensor([exact])
    batch = SimpleNamespace(seq_lens_cpu=computed if known else None, reqs=[request()])
    step = DecodeStep(batch, slots, torch.from_numpy(slots), computed, computed)
    assert lengths.starts(step, table, LIMIT).tolist() == [expected]
    assert lengths.bounds(slots, batch.reqs).tolist() == [expected]
