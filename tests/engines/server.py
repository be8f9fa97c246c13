"""What the launchers of all engines share: a server that ends with its block, and how to start one by hand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.engines import starts

if TYPE_CHECKING:
    from typing_extensions import Self

CHECKOUT = Path(__file__).resolve().parents[2]
IMPORT_ROOTS = (CHECKOUT, CHECKOUT / "kernels", CHECKOUT / "patches")
HOST = "127.0.0.1"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class ServerError(RuntimeError):
    """The server stopped or did not become ready; the message ends with the tail of its log."""


def has_gpu() -> bool:
    """Return whether the NVIDIA driver lists a card."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "GPU " in listing.stdout


def with_defaults(
    base: Mapping[str, str] | None, defaults: Mapping[str, str], folders: Iterable[Path]
) -> dict[str, str]:
    """Return `base` (default: this process's variables) with `defaults` where it has none.

    This checkout and `folders` come first in its PYTHONPATH.
    """
    variables = dict(os.environ if base is None else base)
    for name, value in defaults.items():
        variables.setdefault(name, value)
    inherited = variables.get("PYTHONPATH")
    roots = [*map(str, (*IMPORT_ROOTS, *folders)), *([inherited] if inherited else [])]
    variables["PYTHONPATH"] = os.pathsep.join(roots)
    return variables


def check_model(model: str | Path) -> None:
    """Refuse a path that leads nowhere, which an engine would look for on a hub and report a minute later.

    Raises:
        FileNotFoundError: `model` is neither a folder nor of the form owner/name.
    """
    if not (str(model) and Path(model).is_dir()) and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(model)):
        raise FileNotFoundError(
            f"MODEL={model}: no such folder, and not the name of a hub model (owner/name)"
        )


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class EngineServer(ABC):
    """An engine's server in the background, as a context manager. Each engine's launcher derives its `Server`.

    Leaving the block stops the server and everything it started, whatever happened inside.
    """

    noise = r"(?!)"  # regular expression of the lines that `log_tail` leaves out, matched at their beginning
    patience = 10.0  # seconds a server may take to end by itself

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line that serves `model` with `options` on `port`."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the server's environment, `variables` included."""

    def __init__(
        self,
        model: str | Path,
        *options: str,
        log: str | Path,
        port: int | None = None,
        variables: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        """Prepare a server of `model`; nothing starts before the block is entered.

        `options` are passed to the engine's server, `variables` are added to its environment, `timeout` is in
        seconds, and `on_wait(seconds, last line of the log)` is called about five times a second until the
        server is ready.
        """
        self.model, self.options, self.log = model, options, Path(log)
        self.port = free_port() if port is None else port
        self.variables, self.timeout, self.on_wait = dict(variables or {}), timeout, on_wait
        self.seconds_to_ready = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        start = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        finally:
            starts.add(f"server {self.log.stem} of {Path(self.model).name}", time.monotonic() - start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def healthy(self) -> bool:
        """Return whether /health answers 200."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the log, without `noise`."""
        with self.log.open(errors="replace") as text:
            return "".join(deque((line for line in text if not re.match(self.noise, line)), maxlen=lines))

    def ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        """Send what makes the engine end by itself: SIGTERM to all its processes."""
        os.killpg(process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """Ask the server to end, and after `patience` make it. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.ask_to_end(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the server, or what it left behind in its group
        process.wait()

    def _wait(self) -> None:
        start = time.monotonic()
        while not self.healthy():
            elapsed = time.monotonic() - start
            if not self.is_running():
                raise ServerError(
                    f"the server stopped after {elapsed:.0f} s. End of {self.log}:\n{self.log_tail()}"
                )
            if elapsed > self.timeout:
                raise ServerError(f"not ready after {elapsed:.0f} s. End of {self.log}:\n{self.log_tail()}")
            if self.on_wait is not None:
                self.on_wait(elapsed, self.log_tail(1).strip())
            time.sleep(0.2)
        self.seconds_to_ready = time.monotonic() - start


def launch(
    arguments: Sequence[str],
    usage: str,
    serve_command: Callable[[str, int, Sequence[str]], list[str]],
    environment: Callable[[bool], dict[str, str]],
) -> int:
    """Become what `arguments` say: `serve MODEL [--port N] [options]` or `run COMMAND…`.

    `environment(offline)` is the engine's. Returns only when the arguments are wrong.
    """
    offline = True
    if len(arguments) >= 2 and arguments[0] == "serve":
        model, *options = arguments[1:]
        try:
            check_model(model)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 2
        offline = Path(model).is_dir()
        port = 8000
        if "--port" in options:
            position = options.index("--port")
            port = int(options[position + 1])
            del options[position : position + 2]
        starts.add(f"server of {Path(model).name}")
        command = serve_command(model, port, options)
    elif len(arguments) >= 2 and arguments[0] == "run":
        command = list(arguments[1:])
    else:
        print(usage, file=sys.stderr)
        return 2
    os.execvpe(command[0], command, environment(offline))
