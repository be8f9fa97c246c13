"""What forwards take on the machine at hand, measured before the first request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import accumulate

from nemotron_diffusion_plugin.costs import ForwardCosts, Points

REPEATS = 5
SECONDS = 5.0
"""When this much time has gone by, further numbers of rows are left out: they lie between what is known."""

MOST_ROWS = 1024
"""More are computed, not read, on every GPU: the slope is known by then."""

_FINE_STEP = 8

Run = Callable[[int, bool], None]
"""Runs a forward of so many rows, bidirectional or causal, and waits for the device."""


def row_counts(block_size: int, most: int) -> list[int]:
    """The rows to measure, in order: one, a block, the most, then parts of a block and 2, 3, 4, 6, 8, 12, … blocks."""
    larger, blocks = [], 2
    while blocks * block_size <= most:
        larger += [blocks * block_size, blocks * block_size * 3 // 2]
        blocks *= 2
    larger = [count for count in larger if count <= most]
    return [
        *dict.fromkeys((1, block_size, *larger[-1:], *range(_FINE_STEP, block_size, _FINE_STEP), *larger))
    ]


def measure(
    run: Run,
    block_size: int,
    most: int,
    cached_token_share: float,
    *,
    has_graphs: bool = False,
    singles: int | None = None,
    agree: Callable[[bool], bool] = lambda go_on: go_on,
    clock: Callable[[], float] = time.perf_counter,
) -> ForwardCosts:
    """Time forwards of up to `most` rows and return what they cost.

    A cost is the least of `REPEATS` runs after one to warm up, and never below that of fewer rows. A row and a block
    are measured on any machine, and the most rows unless a block takes twice what a row does, which tells what further
    rows take. The rest is measured until `SECONDS` have gone by since the first forwards ran, which may have compiled
    kernels. A cached token is read as fast as a forward of one row reads the weights.

    Args:
        cached_token_share: the bytes of a cached token's keys and values over those of the weights.
        has_graphs: whether rows of single tokens and whole blocks replay CUDA graphs and drafts of less than a block do
            not: then those are measured for `eager_ms` alone, and single tokens apart from blocks.
        singles: the most requests of a forward. More rows than that, but less than a block, are causally part of one,
            which replays no CUDA graph: with graphs they are left out.
        agree: where several ranks measure together, it makes the first one's answer everybody's: all must run the same
            forwards.
    """
    part = max(1, block_size // 2)
    for rows, bidirectional in (1, False), (block_size, False), (part, True), (block_size, True):
        run(rows, bidirectional)
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

    eager_ms = least(part, True) if has_graphs and block_size > 1 else 0.0
    causal: dict[int, float] = {}
    drafts: dict[int, float] = {}
    counts = row_counts(block_size, most)
    for rows in counts:
        is_needed = rows in (1, block_size)
        if rows == max(counts) and not is_needed:
            is_needed = agree(causal[block_size] < 2 * causal[1])
        if not (is_needed or time_left()):
            continue
        is_part = has_graphs and 1 < rows < block_size
        if not (is_part and singles is not None and rows > singles):
            causal[rows] = least(rows, False)
        if not (has_graphs and rows < block_size):
            drafts[rows] = least(rows, True)
    border = block_size if has_graphs else 0
    points = _rising(causal, border)
    return ForwardCosts(points, _rising(drafts, border), points[0][1] * cached_token_share, eager_ms)


def _rising(times: dict[int, float], border: int) -> Points:
    """Points in the order of their rows, none below one before it on the same side of the border."""
    sides = [[rows for rows in sorted(times) if (rows >= border) is upper] for upper in (False, True)]
    rising = [accumulate((times[rows] for rows in side), max) for side in sides]
    return tuple(zip(sides[0] + sides[1], [*rising[0], *rising[1]], strict=True))


def as_setting(costs: ForwardCosts) -> str:
    """The costs as JSON, as the setting `forward_costs` takes them."""

    def rounded(points: Points) -> list[list[float]]:
        return [[rows, round(ms, 4)] for rows, ms in points]

    table: dict[str, object] = {
        "causal": rounded(costs.causal),
        "bidirectional": rounded(costs.bidirectional),
        "ms_per_kv_token": float(f"{costs.ms_per_kv_token:.3g}"),
    }
    rest = {"eager_ms": costs.eager_ms, "ms_per_mask": costs.ms_per_mask}
    return json.dumps(table | {name: round(ms, 4) for name, ms in rest.items() if ms is not None})
