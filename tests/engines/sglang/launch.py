"""The one place that knows how SGLang is started here, on a CPU or on a GPU.

As a program:
    python -m tests.engines.sglang.launch serve MODEL --port 8000 [any option of `sglang serve`]
    python -m tests.engines.sglang.launch run COMMAND…      runs COMMAND in the environment SGLang needs
As a library: `Server` starts SGLang's server, waits until it answers and stops it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.engines.server import (
    CHECKOUT,
    HOST,
    OFFLINE,
    EngineServer,
    ServerError,
    check_model,
    free_port,
    has_gpu,
    launch,
    with_defaults,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CHECKOUT",
    "Server",
    "ServerError",
    "check_model",
    "environment",
    "free_port",
    "has_gpu",
    "serve_command",
]

HERE = Path(__file__).resolve().parent
CPU_VARIABLES = {
    "OMP_NUM_THREADS": "1",  # more threads cost more in waiting than small models gain
    "SGLANG_USE_CPU_ENGINE": "1",
}
CPU_OPTIONS = (
    *("--device", "cpu", "--attention-backend", "cpu_ref", "--dtype", "float32"),
    *("--max-running-requests", "16", "--max-total-tokens", "16384", "--mem-fraction-static", "0.5"),
)
OPTIONS = ("--enable-metrics", "--skip-server-warmup", "--random-seed", "0")
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # else /health runs a forward and takes a second
}


def environment(
    base: Mapping[str, str] | None = None, gpu: bool | None = None, offline: bool = True
) -> dict[str, str]:
    """Return `base` (default: this process's variables) with what SGLang needs here. Values already set win.

    `offline` keeps Hugging Face libraries off the network, which a model that is a local folder never needs.
    """
    gpu = has_gpu() if gpu is None else gpu
    defaults = {**ALWAYS, **(OFFLINE if offline else {}), **({} if gpu else CPU_VARIABLES)}
    return with_defaults(base, defaults, [] if gpu else [HERE / "standin"])


def serve_command(
    model: str | Path, port: int, options: Sequence[str] = (), gpu: bool | None = None
) -> list[str]:
    """Return the command line of SGLang's server; `options` come last and so win over the defaults."""
    gpu = has_gpu() if gpu is None else gpu
    program = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model)]
    address = ["--host", HOST, "--port", str(port)]
    return [*program, *address, *OPTIONS, *(() if gpu else CPU_OPTIONS), *options]


class Server(EngineServer):
    """SGLang's server in the background, as a context manager.

    It has a folder for temporary files of its own, which goes with it: SGLang leaves its metrics' files there.
    """

    noise = r"\[[^]]*\] Ignore import error when loading sglang\.srt\.models\."  # models that need a GPU
    patience = 5.0
    _folder: str | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="sglang-")
        return super().__enter__()

    def command(self) -> list[str]:
        return serve_command(self.model, self.port, self.options)

    def environment(self) -> dict[str, str]:
        own = {} if self._folder is None else {"TMPDIR": self._folder}
        return environment({**os.environ, **own, **self.variables}, offline=Path(self.model).is_dir())

    def ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        """Interrupt the main process only: it ends the others, whose death it would take for a crash."""
        process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    return launch(arguments, __doc__ or "", serve_command, lambda offline: environment(offline=offline))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
