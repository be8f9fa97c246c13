"""`make bench`: all ways to decode the bundled tiny model, through one engine, on a CPU or a GPU.

Writes tables, plots and the raw numbers into docs/benchmarks/ENGINE-DEVICE. A run that was interrupted goes on; one
that is finished is measured anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nemotron_diffusion_plugin.tools.bench.result import read
from nemotron_diffusion_plugin.tools.cli import app
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES
from tests.engines.recipe import ENGINES
from tests.engines.server import CHECKOUT, has_gpu

MODEL = "nemotron_diffusion_plugin/assets/tiny"
EAGLE3 = "nemotron_diffusion_plugin/assets/tiny-eagle3"
METHODS = (
    "ar",
    "eagle3",
    "ngram",
    "self_speculation",
    "self_speculation_without_lora",
    "auto",
    *(f"diffusion@{threshold}" for threshold in (0.95, 0.9, 0.7, 0.5)),
)
SERVER_OPTIONS = {
    "vllm": "--dtype float32 --max-model-len 512 --kv-cache-memory-bytes 128M",
    "sglang": "--dtype float32 --context-length 512",
}
"""In float32, which the comparison with the reference decoder needs."""
ON_A_GPU = {"vllm": "", "sglang": " --attention-backend triton"}
"""fa3 and fa4, which SGLang may choose on a GPU, take no float32."""
EACH = len(CATEGORIES)
"""Requests of a timed run and prompts of a comparison: one of each category."""


def options(engine: str, output: Path, methods: Sequence[str], gpu: bool) -> list[str]:
    """Return the arguments of `nemotron-diffusion bench`."""
    more = SERVER_OPTIONS[engine] + (ON_A_GPU[engine] if gpu else "")
    head = ["--eagle3", EAGLE3] if "eagle3" in methods else []
    return [
        *("bench", "--engine", engine, "--model", MODEL, "--methods", ",".join(methods), *head),
        *("--launcher", f"python -m tests.engines.{engine}.launch serve"),
        f"--server-options={more}",
        *("--per-category", "8", "--concurrency", "1,8", "--requests", str(EACH), "--repeats", "5"),
        *("--check", str(EACH), "--together", "--output", str(output)),
    ]


def available(methods: Sequence[str]) -> list[str]:
    """Leave out Eagle3 where its head is not there."""
    return [method for method in methods if method != "eagle3" or (CHECKOUT / EAGLE3).is_dir()]


def begin_anew(path: Path) -> None:
    """Remove the result of a finished run, and nothing beside it; tables, plots and logs are written over."""
    if path.exists() and read(path)["finished"]:
        path.unlink()


@errors_in_one_line()
def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks/ENGINE-DEVICE")
    arguments = parser.parse_args()
    gpu = has_gpu()
    output = Path("docs") / "benchmarks" / f"{arguments.engine}-{'gpu' if gpu else 'cpu'}"
    if arguments.output is not None:
        output = arguments.output.resolve()
    os.chdir(CHECKOUT)
    begin_anew(output / "bench.json")
    # The servers' command names no path of this machine: `python` is the one of this environment.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    start = time.monotonic()
    status = app(options(arguments.engine, output, available(METHODS), gpu), standalone_mode=False)
    print(f"{arguments.engine}: {(time.monotonic() - start) / 60:.1f} minutes, {output / 'report.md'}")
    return int(status or 0)


if __name__ == "__main__":
    raise SystemExit(main())
