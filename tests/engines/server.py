"""What the launchers of all engines share: a server that ends with its block, and how to start one by hand."""

from __future__ import annotations

import argparse
import contextlib
import json
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

from nemotron_diffusion_plugin.tools.bench.log import reason
from nemotron_diffusion_plugin.tools.client import names
from tests.engines import foreground, starts

if TYPE_CHECKING:
    from typing_extensions import Self

CHECKOUT = Path(__file__).resolve().parents[2]
IMPORT_ROOTS = (CHECKOUT, CHECKOUT / "kernels", CHECKOUT / "patches")
HOST = "127.0.0.1"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class ServerError(RuntimeError):
    """The server stopped or did not become ready.

    The message holds the tail of its log; its last line says why, as far as the log does, and names the whole log.
    """


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

    This checkout and `folders` come first in its PYTHONPATH, this environment's programs in its PATH.
    """
    variables = dict(os.environ if base is None else base)
    for name, value in defaults.items():
        variables.setdefault(name, value)
    inherited = variables.get("PYTHONPATH")
    roots = [*map(str, (*IMPORT_ROOTS, *folders)), *([inherited] if inherited else [])]
    variables["PYTHONPATH"] = os.pathsep.join(roots)
    programs = str(Path(sys.executable).parent)  # as where the environment is activated
    variables["PATH"] = os.pathsep.join([programs, variables.get("PATH", os.defpath)])
    return variables


def check_model(model: str | Path) -> None:
    """Refuse a folder that no engine can serve, which it would report a minute later.

    Raises:
        ValueError: `model` is neither a folder with a config.json nor of the form owner/name.
    """
    names.check_model("MODEL", str(model))
    config = Path(model) / "config.json"
    if not Path(model).is_dir():
        return
    try:
        is_good = isinstance(json.loads(config.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        is_good = False
    if not is_good:
        raise ValueError(
            f"MODEL: got '{model}', expected a checkpoint folder; its config.json is missing or no JSON"
        )


def check_port(text: str) -> int:
    """Return a port on which a server can listen.

    Raises:
        ValueError: it is no port, or somebody listens there.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 65535):
        raise ValueError(f"PORT: got '{text}', expected 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engines do
        try:
            probe.bind((HOST, int(text)))
        except OSError as error:
            raise ValueError(f"PORT: cannot listen on {text}, {error.strerror}; choose another") from error
    return int(text)


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
                raise self._failed(f"the server stopped after {elapsed:.0f} s")
            if elapsed > self.timeout:
                raise self._failed(f"not ready after {elapsed:.0f} s")
            if self.on_wait is not None:
                self.on_wait(elapsed, self.log_tail(1).strip())
            time.sleep(0.2)
        self.seconds_to_ready = time.monotonic() - start

    def _failed(self, what: str) -> ServerError:
        with self.log.open(errors="replace") as lines:
            why = reason(lines)
        last = f"{what}{': ' * bool(why)}{why}; the whole log is {self.log}"
        return ServerError(f"End of the server's log:\n{self.log_tail()}\n{last}")


def launch(
    arguments: Sequence[str],
    usage: str,
    serve_command: Callable[[str, int, Sequence[str]], list[str]],
    environment: Callable[[bool], dict[str, str]],
) -> int:
    """Become what `arguments` say: `serve MODEL [--port N] [options]` or `run COMMAND…`.

    `environment(offline)` is the engine's. Returns the exit status of the server, or 2 for wrong arguments.
    """
    if len(arguments) >= 2 and arguments[0] == "serve":
        model, *options = arguments[1:]
        try:
            check_model(model)
            port, options = _take_port(options)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        starts.add(f"server of {Path(model).name}")
        command = serve_command(model, port, options)
        variables = environment(Path(model).is_dir())
        return foreground.run(command, variables, f"http://{HOST}:{port}", "nemotron-diffusion-serve")
    if len(arguments) >= 2 and arguments[0] == "run":
        command, variables = list(arguments[1:]), environment(True)
        if shutil.which(command[0], path=variables["PATH"]) is None:
            print(f"error: run: no program '{command[0]}'", file=sys.stderr)
            return 127
        os.execvpe(command[0], command, variables)
    print(usage, file=sys.stderr)
    return 2


def _take_port(options: Sequence[str]) -> tuple[int, list[str]]:
    """Return the port that the options of a server name, 8000 without one, and the other options."""
    parser = argparse.ArgumentParser(prog="serve", add_help=False, allow_abbrev=False)
    parser.add_argument("--port", default="8000")
    known, others = parser.parse_known_args(options)
    return check_port(known.port), others
