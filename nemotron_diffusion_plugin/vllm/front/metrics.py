"""Prometheus counters of the three modes, on the server's own `/metrics` page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from nemotron_diffusion_patches.vllm import shared_metrics
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving import counters
from nemotron_diffusion_plugin.vllm.board import BUCKETS, DECISIONS, SUMS, BoardReader, shared_folder

_collector: Collector | None = None


class ModeCollector(Collector):
    """Reads the engine's counters whenever the page is asked for."""

    def __init__(self, reader: BoardReader, model_name: str, auto_blocks: Sequence[int] = ()) -> None:
        self._reader = reader
        self._model_name = model_name
        self._blocks = (1, *auto_blocks)

    def collect(self) -> Iterable[Metric]:
        """Yield the counters; `forwards` counts, for each request, the forwards it took part in."""
        self._reader.refresh()
        forwards = _family(counters.FORWARDS, counters.FORWARDS_HELP, counters.FORWARDS_LABELS)
        for mode in DecodingMode:
            for kind in counters.KINDS:
                value = self._reader.value(f"{kind}_forwards", mode)
                forwards.add_metric([self._model_name, mode.value, kind], value)
        yield forwards
        for name, text in counters.PER_MODE.items():
            family = _family(name, text, counters.PER_MODE_LABELS)
            for mode in DecodingMode:
                family.add_metric([self._model_name, mode.value], self._reader.value(name, mode))
            yield family
        decisions = _family(
            counters.POLICY_DECISIONS, counters.POLICY_DECISIONS_HELP, counters.POLICY_DECISIONS_LABELS
        )
        for name, block in zip(DECISIONS, self._blocks, strict=False):
            decisions.add_metric([self._model_name, str(block)], self._reader.value(name))
        yield decisions
        engine = _family(
            counters.ENGINE_FORWARDS, counters.ENGINE_FORWARDS_HELP, counters.ENGINE_FORWARDS_LABELS
        )
        for attention in counters.ATTENTION:
            engine.add_metric([self._model_name, attention], self._reader.value(f"{attention}_forwards"))
        yield engine
        for histogram in counters.HISTOGRAMS:
            yield self._histogram(histogram)

    def _histogram(self, histogram: counters.Histogram) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            counters.PREFIX + histogram.name, histogram.help, labels=counters.HISTOGRAM_LABELS
        )
        counts = accumulate(self._reader.value(name) for name in BUCKETS[histogram.name])
        ends = [*(str(float(edge)) for edge in histogram.edges), "+Inf"]
        total = self._reader.value(SUMS[histogram.name])
        family.add_metric([self._model_name], list(zip(ends, counts, strict=True)), total)
        return family


def _family(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(counters.PREFIX + name, text, labels=labels)


def export(vllm_config: Any, auto_blocks: Sequence[int]) -> None:
    """Show the engines' counters on `/metrics`, in each API server.

    `auto_blocks` are the block lengths that auto chooses from beside 1.
    """
    global _collector
    if _collector is not None:
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(_collector)
    model_name = vllm_config.model_config.served_model_name
    if isinstance(model_name, list):
        model_name = model_name[0]
    _collector = ModeCollector(BoardReader(vllm_config), str(model_name), auto_blocks)
    if shared_folder() is None:
        REGISTRY.register(_collector)
    else:
        shared_metrics.patch(lambda: _collector).apply()
