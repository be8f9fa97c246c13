"""The one place that knows how vLLM is started here, on a CPU or on a GPU.

As a program:
    python -m tests.engines.vllm.launch serve MODEL --port 8000 [any option of `vllm serve`]
    python -m tests.engines.vllm.launch run COMMAND…      runs COMMAND in the environment vLLM needs
As a library: `Server` starts `vllm serve`, waits until it answers and stops it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine process is its own worker: one process less
    "VLLM_USE_V2_MODEL_RUNNER": "1",
}
CPU_OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"),
    *("--kv-cache-memory-bytes", "1G"),  # an explicit size also spares vLLM's memory profiling
)
ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def environment(
    base: Mapping[str, str] | None = None, gpu: bool | None = None, offline: bool = True
) -> dict[str, str]:
    """Return `base` (default: this process's variables) with what vLLM needs here. Values already set win.

    `offline` keeps Hugging Face libraries off the network, which a model that is a local folder never needs.
    """
    gpu = has_gpu() if gpu is None else gpu
    defaults = {**ALWAYS, **(OFFLINE if offline else {}), **({} if gpu else CPU_VARIABLES)}
    return with_defaults(base, defaults, [] if gpu else [HERE / "interpreter"])


def serve_command(
    model: str | Path, port: int, options: Sequence[str] = (), gpu: bool | None = None
) -> list[str]:
    """Return the command line of `vllm serve`; `options` come last and so win over the defaults for a CPU."""
    gpu = has_gpu() if gpu is None else gpu
    program = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    return [*program, "--host", HOST, "--port", str(port), *(() if gpu else CPU_OPTIONS), *options]


class Server(EngineServer):
    """`vllm serve` in the background, as a context manager."""

    noise = r"nanobind: | - leaked | - \.\.\. skipped |See https://nanobind"

    def command(self) -> list[str]:
        return serve_command(self.model, self.port, self.options)

    def environment(self) -> dict[str, str]:
        return environment({**os.environ, **self.variables}, offline=Path(self.model).is_dir())


def main(arguments: Sequence[str]) -> int:
    return launch(arguments, __doc__ or "", serve_command, lambda offline: environment(offline=offline))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
