"""How long a call takes on this machine, and how fast it copies."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]


def device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def median_seconds(calls: Sequence[Call], seconds: float) -> float:
    """Return the median time of one call, measured for about `seconds` after a warm-up.

    `calls` do the same with different tensors, in turn, so that none finds its tensors in the cache; together
    they should read several times the cache's size. On a GPU all calls are captured in one CUDA graph, whose
    replays are timed with events: the time is the device's, launches included, without the host's.
    """
    for call in calls:
        call()
    return (_replay if torch.cuda.is_available() else _repeat)(calls, seconds)


def copy_bandwidth(bytes_copied: int, seconds: float) -> float:
    """Return bytes read plus bytes written per second of a copy on the device."""
    elements = bytes_copied // 8
    pairs = [torch.randint(0, 100, (2, elements), device=device()) for _ in range(2)]
    calls = [lambda pair=pair: pair[0].copy_(pair[1]) for pair in pairs]
    return 2 * elements * 8 / median_seconds(calls, seconds)


def _repeat(calls: Sequence[Call], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _replay(calls: Sequence[Call], seconds: float) -> float:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times) / len(calls)
