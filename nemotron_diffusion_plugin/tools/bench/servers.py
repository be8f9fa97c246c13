"""The servers of a run: one for each kind of method, started when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from nemotron_diffusion_plugin.tools.bench.engines import find_engine
from nemotron_diffusion_plugin.tools.bench.methods import ServerKind
from nemotron_diffusion_plugin.tools.bench.result import Result
from nemotron_diffusion_plugin.tools.bench.server import OnWait, RunningServer, Server, free_port
from nemotron_diffusion_plugin.tools.bench.setup import Setup

AnyServer = Server | RunningServer


class Servers:
    """Gives the server of a kind, and ends all of them when its block is left.

    Unless the setup says `together`, only one runs at a time: asking for another kind ends it.
    """

    def __init__(
        self,
        setup: Setup,
        result: Result,
        logs: Path,
        timeout: float,
        on_wait: OnWait | None = None,
        on_start: Callable[[ServerKind], None] | None = None,
    ) -> None:
        self.setup, self.result, self.logs, self.timeout = setup, result, logs, timeout
        self.on_wait, self.on_start = on_wait, on_start
        self._running: dict[ServerKind, AnyServer] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, kind: ServerKind) -> tuple[AnyServer, bool]:
        """Return the server of a kind, and whether it has just been started.

        Raises:
            ValueError: it cannot be started as asked, or nothing answers at the address given.
            BenchError: it ended or did not become ready.
        """
        if kind in self._running:
            return self._running[kind], False
        if self._running and not self.setup.together and self.setup.url is None:
            self._stack.close()
            self._running.clear()
        if self.on_start is not None:
            self.on_start(kind)
        server = self._make(kind)
        self._stack.enter_context(server)
        self._running[kind] = server
        self.result.add_server(kind.value, list(server.command), server.seconds_to_ready)
        return server, True

    def _make(self, kind: ServerKind) -> AnyServer:
        setup = self.setup
        if setup.url is not None:
            return RunningServer(setup.url)
        port = free_port()
        engine, log = find_engine(setup.engine), self.logs / f"{kind.value}.log"
        return Server(
            engine.command(kind, setup, port),
            port,
            log,
            self.timeout,
            self.on_wait,
            engine.variables(kind, setup),
        )
