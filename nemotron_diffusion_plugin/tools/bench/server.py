"""A server that the benchmark starts and ends, and one that somebody else runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from nemotron_diffusion_plugin.tools.bench.errors import BenchError
from nemotron_diffusion_plugin.tools.bench.log import reason

HOST = "127.0.0.1"
_TAIL_LINES = 30
_NOISE = re.compile(r"nanobind: | - leaked |\[[^]]*\] Ignore import error|See https://nanobind")
_PATIENCE = 10.0
_LAST_MOMENTS = 1.0
"""Seconds for a server whose connections have just broken to end."""

OnWait = Callable[[float, str], None]
"""Called a few times a second with the seconds waited and the last line of the server's log."""


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A server in the background, in a process group of its own, which `stop` ends with all it started.

    It has a folder for temporary files of its own, which goes with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        timeout: float = 600.0,
        on_wait: OnWait | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a server; nothing starts before the block is entered.

        `timeout` is the seconds until it must answer, `variables` come on top of this process's environment.
        """
        self.command, self.log, self.timeout, self.on_wait = list(command), log, timeout, on_wait
        self.variables = dict(variables or {})
        self.url = f"http://{HOST}:{port}"
        self.seconds_to_ready = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def __enter__(self) -> Server:
        """Start it and wait until it answers.

        Raises:
            ValueError: there is no such program.
            BenchError: it ended, or did not answer in time.
        """
        program = self.command[0]
        if shutil.which(program) is None:
            raise ValueError(f"cannot start the server: no program '{program}'; name another with --launcher")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix="nemotron-diffusion-bench-")
        try:
            with self.log.open("wb") as output:
                self._process = subprocess.Popen(
                    self.command,
                    env={**os.environ, **self.variables, "TMPDIR": self._folder},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_heed_interrupts,
                )
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        with self.log.open(errors="replace") as text:
            return "".join(deque((line for line in text if not _NOISE.match(line)), maxlen=_TAIL_LINES))

    def lost(self, reason: str) -> BenchError:
        """Return what to raise when a request failed: whether the server still runs, and the end of its log."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_MOMENTS)
        state = "the server is still running" if self.is_running else "the server has ended"
        return BenchError(f"{reason}; {state}, its log is {self.log}", self.log_tail())

    def stop(self) -> None:
        """Ask the server to end, and make it after a few seconds. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)  # the main process ends the others
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        start = time.monotonic()
        while not is_healthy(self.url):
            elapsed = time.monotonic() - start
            if not self.is_running:
                raise self._failed(f"the server ended after {elapsed:.0f} s, before it was ready")
            if elapsed > self.timeout:
                raise self._failed(f"the server was not ready after {elapsed:.0f} s (--start-timeout)")
            if self.on_wait is not None:
                self.on_wait(elapsed, self.log_tail().rstrip().rpartition("\n")[2])
            time.sleep(0.2)
        self.seconds_to_ready = time.monotonic() - start

    def _failed(self, what: str) -> BenchError:
        with self.log.open(errors="replace") as lines:
            why = reason(lines)
        return BenchError(f"{what}{': ' * bool(why)}{why}; its log is {self.log}", self.log_tail())


def _heed_interrupts() -> None:
    """In the new process: SIGINT ends it, also where this one was started in the background and ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class RunningServer:
    """A server that somebody else started and will end."""

    command: Sequence[str] = ()
    seconds_to_ready = 0.0

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __enter__(self) -> RunningServer:
        """Raises ValueError where nothing answers."""
        if not is_healthy(self.url):
            raise ValueError(f"no server answers at {self.url}/health; start one, or leave --url away")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def stop(self) -> None:
        """Leave it as it is."""

    def lost(self, reason: str) -> BenchError:
        """Return what to raise when a request failed."""
        state = "still answers" if is_healthy(self.url) else "does not answer any more"
        return BenchError(f"{reason}; the server at {self.url} {state}")


def is_healthy(url: str) -> bool:
    """Return whether `/health` of a server answers 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False
