"""Run the project's checks one after the other and say how long each took: `python -m tests.run [STEP…]`.

Steps: lint, types, unit, and engine-vllm and engine-sglang, which run in the environment of that engine. All steps run
even when an earlier one fails; the exit status is 1 when any failed. The steps of two engines run side by side, as a
server that starts keeps one core busy; the name of the engine stands before each line then.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.engines.install import detect_device, install
from tests.engines.recipe import ENGINES, SetupError, load_recipe
from tests.engines.server import CHECKOUT

LINT_IMPORTS = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
STEPS = ("lint", "types", "unit", *(f"engine-{engine}" for engine in ENGINES))


def engine_of(step: str) -> str | None:
    """Return the engine whose environment a step needs, None where it needs no engine."""
    return step.removeprefix("engine-") if step.startswith("engine-") else None


def engine_folders(engine: str) -> list[str]:
    return [f"tests/engines/{engine}", f"tests/patches/{engine}", f"tests/{engine}"]


def commands(step: str, python: str | Path) -> list[list[str]]:
    """Return the command lines of one of `STEPS`."""
    engine, pytest = engine_of(step), [str(python), "-m", "pytest"]
    if engine is not None:
        return [[*pytest, *(folder for folder in engine_folders(engine) if (CHECKOUT / folder).is_dir())]]
    ignored = [f"--ignore={folder}" for engine in ENGINES for folder in engine_folders(engine)]
    return {
        "lint": [
            [str(python), "-m", "ruff", "check", "."],
            [str(python), "-m", "ruff", "format", "--check", "."],
            [str(python), "-c", LINT_IMPORTS],
        ],
        "types": [[str(python), "-m", "mypy"]],
        "unit": [[*pytest, "tests", *ignored, "--numprocesses=auto", "--dist=loadscope"]],
    }[step]


def variables(step: str) -> dict[str, str]:
    """Return the environment of a step: the engine's for its tests, one thread for all."""
    base = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"}
    engine = engine_of(step)
    if engine is None:
        return base
    launch = importlib.import_module(f"tests.engines.{engine}.launch")
    return dict(launch.environment(base))


def run(step: str, prefix: str = "") -> bool:
    """Run the commands of a step, all of them, and return whether all succeeded; `prefix` goes before each line."""
    engine = engine_of(step)
    try:
        python = sys.executable if engine is None else install(load_recipe(engine), detect_device())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return False
    statuses = []
    for command in commands(step, python):
        print(f"\n{prefix}== {step}: {' '.join(command[2:])}", flush=True)
        statuses.append(execute(command, variables(step), prefix))
    return not any(statuses)


def execute(command: list[str], environment: dict[str, str], prefix: str) -> int:
    """Run a command in the checkout and return its exit status."""
    if not prefix:
        return subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(prefix + line.rstrip("\n"), flush=True)
    return process.returncode


def timed(step: str, prefix: str) -> tuple[str, float, bool]:
    """Run a step; returns its name, its seconds and whether it succeeded."""
    start = time.monotonic()
    is_good = run(step, prefix)
    return step, time.monotonic() - start, is_good


def main(steps: Sequence[str]) -> int:
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        print(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    chosen = steps or STEPS
    results = [timed(step, "") for step in chosen if engine_of(step) is None]
    if of_engines := [step for step in chosen if engine_of(step) is not None]:
        prefixes = [f"{engine_of(step)}: " if len(of_engines) > 1 else "" for step in of_engines]
        with ThreadPoolExecutor(len(of_engines)) as pool:
            results += pool.map(timed, of_engines, prefixes)
    print("\n== summary")
    for step, seconds, is_good in results:
        print(f"{step:13} {seconds:7.1f} s  {'ok' if is_good else 'FAILED'}")
    return 0 if all(is_good for *_, is_good in results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
