"""`make bench`: all ways to decode the bundled tiny model, through one engine, on a CPU or a GPU.

Writes tables, plots and the raw numbers into docs/benchmarks/ENGINE-DEVICE. A run that was interrupted goes on; one
that is finished is measured anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nemotron_diffusion_plugin.bench.result import read
from nemotron_diffusion_plugin.cli import app
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
    *(f"diffusion@{threshold}" for threshold in (0.95, 0.9, 0.7, 0.5)),
)
SERVER_OPTIONS = {
    "vllm": "--max-model-len 512 --kv-cache-memory-bytes 128M",
    "sglang": "--context-length 512",
}


def options(engine: str, output: Path, methods: Sequence[str]) -> list[str]:
    """Return the arguments of `nemotron-diffusion bench`."""
    head = ["--eagle3", EAGLE3] if "eagle3" in methods else []
    return [
        *("bench", "--engine", engine, "--model", MODEL, "--methods", ",".join(methods), *head),
        *("--launcher", f"python -m tests.engines.{engine}.launch serve"),
        f"--server-options={SERVER_OPTIONS[engine]}",
        *("--per-category", "8", "--concurrency", "1,8", "--requests", "8", "--repeats", "5"),
        *("--check", "5", "--together", "--output", str(output)),
    ]


def available(methods: Sequence[str]) -> list[str]:
    """Leave out Eagle3 where its head is not there."""
    return [method for method in methods if method != "eagle3" or (CHECKOUT / EAGLE3).is_dir()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks/ENGINE-DEVICE")
    arguments = parser.parse_args()
    os.chdir(CHECKOUT)
    device = "gpu" if has_gpu() else "cpu"
    output = arguments.output or Path("docs") / "benchmarks" / f"{arguments.engine}-{device}"
    if (output / "bench.json").exists() and read(output / "bench.json")["finished"]:
        shutil.rmtree(output)
    # The servers' command names no path of this machine: `python` is the one of this environment.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    start = time.monotonic()
    status = app(options(arguments.engine, output, available(METHODS)), standalone_mode=False)
    print(f"{arguments.engine}: {(time.monotonic() - start) / 60:.1f} minutes, {output / 'report.md'}")
    return int(status or 0)


if __name__ == "__main__":
    raise SystemExit(main())
