"""Counters of the three modes, on SGLang's `/metrics` page, under the same names as with vLLM."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemotron_diffusion_plugin.options import MODES, DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.serving import counters as names
from nemotron_diffusion_plugin.serving.request_counts import (
    RESPONSE_KEY,
    RequestCounts,
    counts_of,
    start_counting,
)
from nemotron_diffusion_plugin.sglang.worker.step import StepCounts

Observe = Callable[[Any, int, int], None]
"""Hears of a request, the drafts of its verify forward, and how many of them were accepted."""

_RETURNED = "_nemotron_diffusion_returned"


class Counters:
    """Counts what each step did once SGLang takes in its result; steps come back in the order they were begun."""

    def __init__(self, metrics: _Metrics | None, observe: Observe | None = None) -> None:
        self._metrics = metrics
        self._observe = observe
        self._pending: deque[StepCounts] = deque()

    @classmethod
    def for_server(
        cls, server_args: Any, auto_blocks: Sequence[int] = (), observe: Observe | None = None
    ) -> Counters:
        """Counters that are exported where the server was started with --enable-metrics, by its first rank.

        `observe` hears on every rank of each verify forward of a request in auto.
        """
        from sglang.srt.runtime_context import get_observability, get_parallel, get_serving

        exported = server_args.enable_metrics and get_parallel().tp_rank == 0
        labels = get_observability().extra_metric_labels
        metrics = _Metrics(get_serving().served_model_name, auto_blocks, labels) if exported else None
        counters = cls(metrics, observe)
        global _of_process
        _of_process = counters
        return counters

    def engine_forward(self, attention: str, amount: int = 1) -> None:
        """Count forwards of the whole batch, "causal" or "bidirectional"."""
        if self._metrics is not None and amount:
            self._metrics.engine_forwards(attention, amount)

    def step_begun(self, step: StepCounts) -> None:
        """Keep what a decode step does until SGLang has its result."""
        self._pending.append(step)

    def step_done(self, num_correct_drafts: list[int]) -> StepCounts | None:
        """Count the oldest step and return it; `num_correct_drafts` are the tokens each request emitted, less one."""
        if not self._pending:
            return None
        step = self._pending.popleft()
        for row, req in enumerate(step.reqs):
            if req.is_retracted or req.finished():
                continue  # the overlap schedule's one step more
            length, accepted = int(step.lengths[row]), num_correct_drafts[row]
            if self._observe is not None and length > 1 and MODES[step.modes[row]] is DecodingMode.AUTO:
                self._observe(req, length - 1, accepted)
            self._count(step, row, accepted)
        return step

    def chosen(self, lengths: Sequence[int]) -> None:
        """Count the block lengths chosen for requests in auto."""
        if self._metrics is not None:
            self._metrics.decisions(lengths)

    def _count(self, step: StepCounts, row: int, correct_drafts: int) -> None:
        mode, counts = MODES[step.modes[row]], counts_of(step.reqs[row])
        denoised = int(step.denoised[row])
        for kind, amount in (
            ("draft", int(step.drafted[row])),
            ("denoise", denoised),
            ("verify", int(step.lengths[row] > 0)),
        ):
            if self._metrics is not None:
                self._metrics.forwards(mode, kind, amount)
            if counts is not None and kind != "denoise":
                counts.forward(kind, amount)
        if denoised and self._metrics is not None:
            self._metrics.observe(names.STEPS_OF_BLOCK, denoised)
        if denoised and counts is not None:
            counts.block_denoised(denoised)
        if step.lengths[row] > 1:
            self._count_cycle(mode, counts, correct_drafts)

    def _count_cycle(self, mode: DecodingMode, counts: RequestCounts | None, correct_drafts: int) -> None:
        is_verified = mode is not DecodingMode.DIFFUSION
        if self._metrics is not None:
            self._metrics.count("cycles", mode)
            if is_verified:
                self._metrics.count("accepted_drafts", mode, correct_drafts)
                self._metrics.observe(names.ACCEPTED_IN_CYCLE, correct_drafts)
        if counts is not None and is_verified:
            counts.accepted_drafts.append(correct_drafts)

    def returned(self, req: Any, options: DecodingOptions) -> None:
        """Count what a request has returned to its client since the last call."""
        total = len(req.output_ids) if req.finished_len is None else req.finished_len
        before = getattr(req, _RETURNED, 0)
        if total <= before:
            return
        setattr(req, _RETURNED, total)
        mode = options.decoding_mode
        if not before and options.return_counts:
            start_counting(req, mode)
        if counts := counts_of(req):
            counts.tokens += total - before
            counts.forward("prefill", int(not before))
        if self._metrics is None:
            return
        if not before:
            self._metrics.count("requests", mode)
            self._metrics.forwards(mode, "prefill", 1)
        self._metrics.count("generated_tokens", mode, total - before)


def for_responses(reqs: list[Any]) -> dict[str, list[Any]]:
    """The counts of the requests that have ended and asked for them, as SGLang takes additions to `meta_info`."""
    summaries = [
        [counts.summary()] if req.finished() and (counts := counts_of(req)) is not None else []
        for req in reqs
    ]
    return {RESPONSE_KEY: summaries} if any(summaries) else {}


_of_process: Counters | None = None


def of_process() -> Counters | None:
    """The counters of this process's worker; None where the worker is not ours."""
    return _of_process


class _Metrics:
    """The Prometheus side; the client library adds up the processes of a server."""

    def __init__(
        self, model_name: str, auto_blocks: Sequence[int] = (), extra_labels: Mapping[str, str] | None = None
    ) -> None:
        """`extra_labels` are those that a server's owner gives all of its metrics, by name."""
        from prometheus_client import Counter, Histogram

        extra = dict(extra_labels or {})
        self._labels = (*extra.values(), model_name)
        self._blocks = (1, *auto_blocks)

        def counter(name: str, text: str, labels: Sequence[str]) -> Any:
            return Counter(names.PREFIX + name, text, (*extra, *labels))

        self._per_mode = {
            name: counter(name, text, names.PER_MODE_LABELS) for name, text in names.PER_MODE.items()
        }
        self._forwards = counter(names.FORWARDS, names.FORWARDS_HELP, names.FORWARDS_LABELS)
        self._engine = counter(
            names.ENGINE_FORWARDS, names.ENGINE_FORWARDS_HELP, names.ENGINE_FORWARDS_LABELS
        )
        self._decisions = counter(
            names.POLICY_DECISIONS, names.POLICY_DECISIONS_HELP, names.POLICY_DECISIONS_LABELS
        )
        self._histograms = {
            one.name: Histogram(
                names.PREFIX + one.name, one.help, (*extra, *names.HISTOGRAM_LABELS), buckets=one.edges
            ).labels(*self._labels)
            for one in names.HISTOGRAMS
        }
        for block in self._blocks:
            self._decisions.labels(*self._labels, str(block)).inc(0)
        for mode in DecodingMode:
            for name in names.PER_MODE:
                self.count(name, mode, 0)
            for kind in names.KINDS:
                self.forwards(mode, kind, 0)
        for attention in names.ATTENTION:
            self.engine_forwards(attention, 0)

    def count(self, name: str, mode: DecodingMode, amount: int = 1) -> None:
        self._per_mode[name].labels(*self._labels, mode.value).inc(amount)

    def forwards(self, mode: DecodingMode, kind: str, amount: int) -> None:
        self._forwards.labels(*self._labels, mode.value, kind).inc(amount)

    def observe(self, histogram: names.Histogram, value: int) -> None:
        self._histograms[histogram.name].observe(value)

    def engine_forwards(self, attention: str, amount: int) -> None:
        self._engine.labels(*self._labels, attention).inc(amount)

    def decisions(self, lengths: Sequence[int]) -> None:
        """Each counts as the shortest length of the server's that is no shorter."""
        for length in lengths:
            block = self._blocks[bisect.bisect_left(self._blocks, length)]
            self._decisions.labels(*self._labels, str(block)).inc()
