"""The one place that knows how vLLM is started here, on a CPU or on a GPU.

As a program:
    python -m tests.engines.vllm.launch serve MODEL --port 8000 [any option of `vllm serve`]
    python -m tests.engines.vllm.launch run COMMAND…      runs COMMAND in the environment vLLM needs
As a library: `Server` starts `vllm serve`, waits until it answers and stops it.
"""

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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
IMPORT_ROOTS = (CHECKOUT, CHECKOUT / "kernels", CHECKOUT / "patches")
HOST = "127.0.0.1"

CPU_VARIABLES = {
    "OMP_NUM_THREADS": "1",  # more threads cost more in waiting than small models gain
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine process is its own worker: one process less
    "VLLM_USE_V2_MODEL_RUNNER": "1",
}
CPU_OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"),
    *("--kv-cache-memory-bytes", "1G"),  # an explicit size also spares vLLM's memory profiling
)
ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
_NOISE = ("nanobind: ", " - leaked ", " - ... skipped ", "See https://nanobind")


class ServerError(RuntimeError):
    """The server stopped or did not become ready; the message ends with the tail of its log."""


def has_gpu() -> bool:
    """Return whether the NVIDIA driver lists a card."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "GPU " in listing.stdout


def environment(
    base: Mapping[str, str] | None = None, gpu: bool | None = None, offline: bool = True
) -> dict[str, str]:
    """Return `base` (default: this process's variables) with what vLLM needs here. Values already set win.

    `offline` keeps Hugging Face libraries off the network, which a model that is a local folder never needs.
    """
    variables = dict(os.environ if base is None else base)
    gpu = has_gpu() if gpu is None else gpu
    for name, value in {**ALWAYS, **(OFFLINE if offline else {}), **({} if gpu else CPU_VARIABLES)}.items():
        variables.setdefault(name, value)
    roots = [*IMPORT_ROOTS, *([] if gpu else [HERE / "interpreter"])]
    inherited = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = os.pathsep.join([*map(str, roots), *([inherited] if inherited else [])])
    return variables


def serve_command(
    model: str | Path, port: int, options: Sequence[str] = (), gpu: bool | None = None
) -> list[str]:
    """Return the command line of `vllm serve`; `options` come last and so win over the defaults for a CPU."""
    gpu = has_gpu() if gpu is None else gpu
    program = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    return [*program, "--host", HOST, "--port", str(port), *(() if gpu else CPU_OPTIONS), *options]


def check_model(model: str | Path) -> None:
    """Refuse a path that leads nowhere, which vLLM would look for on a hub and report a minute later.

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


class Server:
    """`vllm serve` in the background, as a context manager.

    Leaving the block stops the server and everything it started, whatever happened inside.
    """

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

        `options` are passed to `vllm serve`, `variables` are added to its environment, `timeout` is in
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

    def __enter__(self) -> Server:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                serve_command(self.model, self.port, self.options),
                env=environment({**os.environ, **self.variables}, offline=Path(self.model).is_dir()),
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
        """Return the last lines of the log, without what Triton's bindings print whenever a process fails."""
        with self.log.open(errors="replace") as text:
            return "".join(deque((line for line in text if not line.startswith(_NOISE)), maxlen=lines))

    def stop(self) -> None:
        """Ask the server to end, and after ten seconds make it. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            if _ends_within(process, patience):
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what the server left behind in its group
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


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
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
        command = serve_command(model, port, options)
    elif len(arguments) >= 2 and arguments[0] == "run":
        command = list(arguments[1:])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    os.execvpe(command[0], command, environment(offline=offline))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
