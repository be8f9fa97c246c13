"""Run the project's checks one after the other and say how long each took: `python -m tests.run [STEP…]`.

All steps run even when an earlier one fails; the exit status is 1 when any failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.engines.vllm.launch import CHECKOUT, environment

PYTHON = sys.executable
ENGINE_TESTS = ("tests/engines", "tests/patches", "tests/vllm")
Commands = list[list[str]]


def commands(step: str) -> Commands:
    """Return the command lines of a step.

    Raises:
        KeyError: there is no such step.
    """
    present = [folder for folder in ENGINE_TESTS if (CHECKOUT / folder).is_dir()]
    pytest = [PYTHON, "-m", "pytest"]
    return {
        "lint": [[PYTHON, "-m", "ruff", "check", "."], [PYTHON, "-m", "ruff", "format", "--check", "."]],
        "types": [[PYTHON, "-m", "mypy"]],
        "unit": [[*pytest, "tests", *(f"--ignore={folder}" for folder in ENGINE_TESTS)]],
        "engine": [[*pytest, *present]],
    }[step]


def variables(step: str) -> dict[str, str]:
    """Return the environment of a step: the engine's for its tests, one thread for all."""
    base = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"}
    return environment(base) if step == "engine" else base


def main(steps: Sequence[str]) -> int:
    results: list[tuple[str, float, bool]] = []
    for step in steps or ("lint", "types", "unit", "engine"):
        start = time.monotonic()
        statuses = []
        for command in commands(step):
            print(f"\n== {step}: {' '.join(command[2:])}", flush=True)
            statuses.append(
                subprocess.run(command, cwd=CHECKOUT, env=variables(step), check=False).returncode
            )
        results.append((step, time.monotonic() - start, not any(statuses)))
    print("\n== summary")
    for step, seconds, is_good in results:
        print(f"{step:8} {seconds:7.1f} s  {'ok' if is_good else 'FAILED'}")
    return 0 if all(is_good for *_, is_good in results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
