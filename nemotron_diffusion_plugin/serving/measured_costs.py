"""What forwards take on the machine at hand, measured before the first request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import accumulate

from nemotron_diffusion_plugin.decoding.auto.costs import ForwardCosts, Points

REPEATS = 5
SECONDS = 5.0
"""When this much time has gone by, larger forwards are left out: what they take follows from the slope before them."""

MOST_ROWS = 1024
"""More are computed, not read, on every GPU: the slope is known by then."""

_FINE_STEP = 8

Run = Callable[[int, bool], None]
"""Runs a forward of so many rows, bidirectional or causal, and waits for the device."""


def row_counts(block_size: int, most: int) -> list[int]:
    """The rows to measure, in order: one, a block, its parts, and 2, 3, 4, 6, 8, 12, … blocks up to `most` rows."""
    counts = [*dict.fromkeys((1, block_size)), *range(_FINE_STEP, block_size, _FINE_STEP)]
    blocks = 2
    while blocks * block_size <= most:
        counts += [blocks * block_size, blocks * block_size * 3 // 2]
        blocks *= 2
    return [count for count in counts if count <= max(most, block_size)]


def measure(
    run: Run,
    block_size: int,
    most: int,
    cached_token_share: float,
    *,
    has_graphs: bool = False,
    agree: Callable[[bool], bool] = lambda go_on: go_on,
    clock: Callable[[], float] = time.perf_counter,
) -> ForwardCosts:
    """Time forwards of up to `most` rows and return what they cost.

    A cost is the least of `REPEATS` runs behind one to warm up, and never below that of fewer rows. A row and a block
    are measured on any machine, more than that until `SECONDS` have gone by. A cached token is read as fast as a
    forward of one row reads the weights.

    Args:
        cached_token_share: the bytes of a cached token's keys and values over those of the weights.
        has_graphs: whether rows of single tokens and whole blocks replay CUDA graphs and drafts of less than a block do
            not: then those are measured for `eager_ms` alone.
        agree: where several ranks measure together, it makes the first one's answer everybody's: all must run the same
            forwards.
    """
    begun = clock()

    def time_left() -> bool:
        return agree(clock() - begun < SECONDS)

    def least(rows: int, bidirectional: bool) -> float:
        run(rows, bidirectional)
        taken: list[float] = []
        while not taken or (len(taken) < REPEATS and time_left()):
            start = clock()
            run(rows, bidirectional)
            taken.append((clock() - start) * 1e3)
        return min(taken)

    eager_ms = least(max(1, block_size // 2), True) if has_graphs and block_size > 1 else 0.0
    times: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for rows in row_counts(block_size, most):
        if block_size in times[False] and not time_left():
            break
        for bidirectional, known in times.items():
            if not (has_graphs and bidirectional and rows < block_size):
                known[rows] = least(rows, bidirectional)
    causal, drafts = _rising(times[False]), _rising(times[True])
    return ForwardCosts(causal, drafts, causal[0][1] * cached_token_share, eager_ms)


def _rising(times: dict[int, float]) -> Points:
    """Points in the order of their rows, none below one before it."""
    rows = sorted(times)
    return tuple(zip(rows, accumulate((times[count] for count in rows), max), strict=True))


def as_setting(costs: ForwardCosts) -> str:
    """The costs as JSON, as the setting `forward_costs` takes them."""

    def rounded(points: Points) -> list[list[float]]:
        return [[rows, round(ms, 4)] for rows, ms in points]

    return json.dumps(
        {
            "causal": rounded(costs.causal),
            "bidirectional": rounded(costs.bidirectional),
            "ms_per_kv_token": float(f"{costs.ms_per_kv_token:.3g}"),
            "eager_ms": round(costs.eager_ms, 4),
        }
    )
