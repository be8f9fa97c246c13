"""A run: what is not measured yet is measured, cell by cell, and kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nemotron_diffusion_plugin.tools.bench import client
from nemotron_diffusion_plugin.tools.bench.client import Reply, RequestError
from nemotron_diffusion_plugin.tools.bench.counts import Counts, count
from nemotron_diffusion_plugin.tools.bench.data import Prompt, Source
from nemotron_diffusion_plugin.tools.bench.engines import find_engine
from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.exactness import Reference
from nemotron_diffusion_plugin.tools.bench.methods import Method, ServerKind
from nemotron_diffusion_plugin.tools.bench.result import Load, Result
from nemotron_diffusion_plugin.tools.bench.servers import AnyServer, Servers
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.bench.statistics import percentiles
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters, read_settled_counters

_COUNTING_CONCURRENCY = 8
_WARM_UP_REQUESTS = 2


class Run:
    """Measures the cells of a setup that its result does not have.

    Counts come first, on a server that has seen no prompt: an n-gram cache learns from what it has answered. The timed
    runs follow, repeat by repeat, each of them through all methods, in turn forwards and backwards. No prompt is asked
    twice of one method, as long as the data has others.
    """

    def __init__(
        self,
        result: Result,
        source: Source,
        servers: Servers,
        timeout: float,
        on_cell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`timeout` is the seconds a server may stay silent within a request; `on_cell` hears what is measured next."""
        self.result, self.source, self.servers = result, source, servers
        self.timeout, self.on_cell = timeout, on_cell
        self.setup = result.setup
        self.engine = find_engine(self.setup.engine)
        self._warm: set[tuple[str, int]] = set()
        self._places = _places(self.setup)
        self._models: dict[str, str] = {}
        self._reference: Reference | None = None

    def __call__(self) -> None:
        """Measure everything that is missing.

        Raises:
            BenchError: a server ended, a request failed, or an answer differs from the reference decoder's.
            ValueError: a server cannot be started as asked, is one of the other engine, or reports no acceptance.
        """
        methods = self.setup.chosen()
        for kind in dict.fromkeys(method.kind for method in methods):
            self._count_all([method for method in methods if method.kind is kind])
        for repeat in range(self.setup.repeats):
            order = methods if repeat % 2 == 0 else methods[::-1]
            for kind in dict.fromkeys(method.kind for method in order):
                self._time_all([method for method in order if method.kind is kind], repeat)
        self.result.finish()

    def _count_all(self, methods: list[Method]) -> None:
        for method in methods:
            if (
                self.setup.check
                and method.kind is ServerKind.MODES
                and not self.result.has_check(method.name)
            ):
                self._check(method)
        for method in methods:
            for category in self.setup.categories if self.setup.per_category else ():
                if not self.result.has_counts(method.name, category):
                    self.on_cell(f"counts: {method.title}, {category}")
                    prompts = self.source.different(category, self.setup.per_category)
                    _, counts = self._counted(method, prompts)
                    self.result.add_counts(method.name, category, counts)

    def _check(self, method: Method) -> None:
        self.on_cell(f"reference decoder: {method.title}")
        prompts = self.source.mixed(self._places["check"], self.setup.check)
        replies, counts = self._counted(method, prompts)
        if self._reference is None:
            self._reference = Reference(
                Path(self.setup.checkpoint or self.setup.model), self.setup.max_tokens
            )
        differences = self._reference.differences(method, prompts, replies, counts)
        if differences:
            raise BenchError(
                f"{method.title}: {len(differences)} differences from the reference decoder: "
                + "; ".join(differences[:3])
            )
        kept = {"prompts": len(prompts), "tokens": counts.tokens, "forwards": counts.forwards, "equal": True}
        self.result.add_check(method.name, kept)

    def _counted(self, method: Method, prompts: list[Prompt]) -> tuple[list[Reply], Counts]:
        server, _ = self.servers.get(method.kind)
        before = self._counters(server, method)
        replies, _ = self._ask(server, method, prompts, _COUNTING_CONCURRENCY, stream=False)
        after = self._counters(server, method)
        counters = after.since(before) if before is not None and after is not None else None
        return replies, count(method, prompts, replies, counters)

    def _time_all(self, methods: list[Method], repeat: int) -> None:
        for concurrency in self.setup.concurrency:
            for method in methods:
                if not self.result.has_load(method.name, concurrency, repeat):
                    self.on_cell(f"repeat {repeat + 1}: {method.title}, concurrency {concurrency}")
                    self._time(method, concurrency, repeat)

    def _time(self, method: Method, concurrency: int, repeat: int) -> None:
        server, started = self.servers.get(method.kind)
        if started:
            self._warm.clear()
        if (method.name, concurrency) not in self._warm:
            warming = self.source.mixed(self._places["warm-up"], _warm_up_requests(concurrency))
            self._ask(server, method, warming, concurrency, stream=True)
            self._warm.add((method.name, concurrency))
        prompts = self.source.mixed(
            self._places[f"load {concurrency} {repeat}"], self.setup.requests_at(concurrency)
        )
        replies, seconds = self._ask(server, method, prompts, concurrency, stream=True)
        gaps = [gap for reply in replies for gap in reply.gaps]
        self.result.add_load(
            Load(
                method=method.name,
                concurrency=concurrency,
                repeat=repeat,
                requests=len(replies),
                prompt_tokens=sum(reply.prompt_tokens for reply in replies),
                tokens=sum(reply.tokens for reply in replies),
                seconds=round(seconds, 4),
                latency=[round(reply.latency, 4) for reply in replies],
                first=[round(reply.first, 4) for reply in replies if reply.text],
                per_token=[round(t, 5) for reply in replies if (t := reply.time_per_token) is not None],
                gap_percentiles={name: round(value, 5) for name, value in percentiles(gaps).items()},
            )
        )

    def _ask(
        self, server: AnyServer, method: Method, prompts: list[Prompt], concurrency: int, stream: bool
    ) -> tuple[list[Reply], float]:
        bodies = [
            self.engine.body(method, self._model(server), prompt.messages, self.setup) for prompt in prompts
        ]
        try:
            return client.run(server.url, bodies, concurrency, stream, self.timeout)
        except RequestError as error:
            raise server.lost(f"{method.title}: {error}") from error

    def _model(self, server: AnyServer) -> str:
        from nemotron_diffusion_plugin.tools.client.served_model import find_model

        if server.url not in self._models:
            try:
                served = find_model(server.url)
            except OSError as error:
                raise server.lost(str(error)) from error
            if served.engine != self.setup.engine:
                raise ValueError(
                    f"--engine: got {self.setup.engine}, but the server at {server.url} is {served.engine}, which "
                    f"reads another field of a request; use --engine {served.engine}"
                )
            self._models[server.url] = served.name
        return self._models[server.url]

    def _counters(self, server: AnyServer, method: Method) -> ModeCounters | None:
        if method.kind is not ServerKind.MODES:
            return None
        try:
            return read_settled_counters(server.url, method.mode)
        except OSError as error:
            raise server.lost(f"/metrics: {error}") from error


def _places(setup: Setup) -> dict[str, int]:
    """Return where in the order of each category the prompts of each purpose begin, so that they do not overlap."""
    sizes = {"check": setup.check, "warm-up": max(map(_warm_up_requests, setup.concurrency), default=0)}
    for repeat in range(setup.repeats):
        for concurrency in setup.concurrency:
            sizes[f"load {concurrency} {repeat}"] = setup.requests_at(concurrency)
    places, place = {}, setup.per_category
    for purpose, size in sizes.items():
        places[purpose] = place
        place += math.ceil(size / len(setup.categories))
    return places


def _warm_up_requests(concurrency: int) -> int:
    return max(_WARM_UP_REQUESTS, concurrency)
