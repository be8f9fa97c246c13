"""Run the project's checks one after the other and say how long each took: `python -m tests.run [--all] [STEP…]`.

Steps: lint, types, unit, and for each engine, in its environment, engine-ENGINE (through servers) and parts-ENGINE (the
rest). Another version of an engine than the usual one has parity-ENGINE-VERSION, a short run, and in the long lane
engine-ENGINE-VERSION and parts-ENGINE-VERSION, without the tests marked `long`. All steps run even when an earlier one
fails; the exit status is 1 when any failed. Engines' steps run two at a time, as a server that starts keeps one core
busy; the name of the engine stands before each line then. `--all` is the long lane: the tests marked `long` too, and
every test in its full size (tests/README.md).
"""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.engines import starts
from tests.engines.install import VERSION, detect_device, install
from tests.engines.recipe import ENGINES, SetupError, load_recipe
from tests.engines.server import CHECKOUT

LINT_IMPORTS = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
AT_ONCE = 2
OTHER_VERSIONS = ("vllm-0.33",)
"""Versions that are served beside the usual ones: a short run with every change, the suites in the long lane."""
USUAL_STEPS = (
    *("lint", "types", "unit"),
    *(
        f"{kind}-{engine}" for kind in ("engine", "parts") for engine in reversed(ENGINES)
    ),  # the longest first
)
SHORT_STEPS = (*USUAL_STEPS, *(f"parity-{version}" for version in OTHER_VERSIONS))
LONG_STEPS = (
    *USUAL_STEPS,
    *(f"{kind}-{version}" for version in OTHER_VERSIONS for kind in ("engine", "parts")),
)
STEPS = tuple(dict.fromkeys((*SHORT_STEPS, *LONG_STEPS)))
PARITY = ("tests/served/test_tokens.py",)
"""Tokens and forwards in all modes, against the reference decoder."""
FULL_SIZES = {
    "NEMOTRON_DIFFUSION_DRAWS": "4000",
    "NEMOTRON_DIFFUSION_STEPS": "5000",
    "NEMOTRON_DIFFUSION_JSON_RUNS": "200",
    "NEMOTRON_DIFFUSION_CLIENTS": "300",
    "NEMOTRON_DIFFUSION_ROUNDS": "30",
    "NEMOTRON_DIFFUSION_FUZZ": "500",
}
"""The sizes of the long lane, which takes an hour on two cores; a variable that is set already wins."""


FAILURES = ("FAILED ", "ERROR ")
"""How pytest's lines begin that name a test that failed."""


@dataclass(frozen=True)
class Result:
    """How a step ended, after how many seconds, what it started of its engine, and which tests failed."""

    step: str
    seconds: float
    is_good: bool
    starts: Sequence[str] = ()
    failures: Sequence[str] = ()

    def __str__(self) -> str:
        said = f"{self.step:13} {self.seconds:7.1f} s  {'ok' if self.is_good else 'FAILED'}"
        said = f"{said:34} {starts.summary(self.starts)}" if self.starts else said
        return "\n    ".join([said, *self.failures])


def engine_of(step: str) -> str | None:
    """Return the engine whose environment a step needs, None where it needs no engine."""
    kind, _, rest = step.partition("-")
    return rest.partition("-")[0] if kind in ("engine", "parts", "parity") else None


def version_of(step: str) -> str | None:
    """Return the version of the engine that a step names, None for the usual one."""
    return step.partition("-")[2].partition("-")[2] or None


def engine_folders(engine: str) -> list[str]:
    """Return the folders of an engine's tests: through servers, and the rest."""
    return ["tests/served", f"tests/{engine}", *part_folders(engine)]


def part_folders(engine: str) -> list[str]:
    return [f"tests/{engine}/parts", f"tests/engines/{engine}", f"tests/patches/{engine}"]


def commands(step: str, python: str | Path, long: bool = False) -> list[list[str]]:
    """Return the command lines of one of `STEPS`."""
    engine, pytest = engine_of(step), [str(python), "-m", "pytest", *(["-m", ""] if long else [])]
    if engine is not None:
        parts = [folder for folder in part_folders(engine) if (CHECKOUT / folder).is_dir()]
        if step.startswith("parts-"):
            return [[*pytest, *parts]]
        if step.startswith("parity-"):
            contracts = f"tests/{engine}/parts/test_contracts.py"
            return [[*pytest, *PARITY, "-k", "trained"], [*pytest, contracts]]
        return [[*pytest, "tests/served", f"tests/{engine}", f"--ignore=tests/{engine}/parts"]]
    ignored = {f"--ignore={folder}": None for engine in ENGINES for folder in engine_folders(engine)}
    return {
        "lint": [
            [str(python), "-m", "ruff", "check", "."],
            [str(python), "-m", "ruff", "format", "--check", "."],
            [str(python), "-c", LINT_IMPORTS],
        ],
        "types": [[str(python), "-m", "mypy"]],
        "unit": [[*pytest, "tests", *ignored, "--numprocesses=auto", "--dist=loadscope"]],
    }[step]


def variables(step: str, long: bool = False) -> dict[str, str]:
    """Return the environment of a step: the engine's for its tests, one thread for all."""
    base = {**(FULL_SIZES if long else {}), **os.environ, "HF_HUB_OFFLINE": "1"}
    base.setdefault("OMP_NUM_THREADS", "1")
    engine = engine_of(step)
    if engine is None:
        return base
    launch = importlib.import_module(f"tests.engines.{engine}.launch")
    return dict(launch.environment(base))


def set_up(engine: str, version: str | None) -> Path:
    """Make the environment of an engine exist and return its Python."""
    return install(load_recipe(engine, version), detect_device())


def run(step: str, prefix: str = "", long: bool = False) -> Result:
    """Run the commands of a step, all of them; `prefix` goes before each line."""
    engine, start = engine_of(step), time.monotonic()
    try:
        python = sys.executable if engine is None else set_up(engine, version_of(step))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return Result(step, time.monotonic() - start, False)
    statuses: list[int] = []
    failures: list[str] = []
    with tempfile.NamedTemporaryFile(prefix="engine-starts-") as counted:
        long = long and version_of(step) is None
        environment = {
            **variables(step, long),
            starts.VARIABLE: counted.name,
            VERSION: version_of(step) or "",
        }
        for command in commands(step, python, long):
            print(f"\n{prefix}== {step}: {' '.join(command[2:])}", flush=True)
            status, failed = execute(command, environment, prefix)
            statuses.append(status)
            failures += failed
        seconds = time.monotonic() - start
        return Result(step, seconds, not any(statuses), starts.read(counted.name), failures)


def execute(command: list[str], environment: dict[str, str], prefix: str) -> tuple[int, list[str]]:
    """Run a command in the checkout; return its exit status and the lines in which pytest names what failed."""
    failures = []
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
            line = line.rstrip("\n")
            print(prefix + line, flush=True)
            if line.startswith(FAILURES):
                failures.append(line)
    return process.returncode, failures


def set_up_engines() -> None:
    """Begin to set up the engines' environments, which mostly waits for the package index, beside the first steps."""
    for name in (*ENGINES, *OTHER_VERSIONS):
        engine, _, version = name.partition("-")
        command = [sys.executable, "-m", "tests.engines.install", "--engine", engine]
        environment = {**os.environ, VERSION: version}
        subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL)


def main(arguments: Sequence[str]) -> int:
    long, steps = "--all" in arguments, [word for word in arguments if word != "--all"]
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        print(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    begun, chosen = time.monotonic(), steps or (LONG_STEPS if long else SHORT_STEPS)
    if not steps:
        set_up_engines()
    results = [run(step, "", long) for step in chosen if engine_of(step) is None]
    if of_engines := [step for step in chosen if engine_of(step) is not None]:
        prefixes = [f"{step.partition('-')[2]}: " if len(of_engines) > 1 else "" for step in of_engines]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results += pool.map(run, of_engines, prefixes, [long] * len(of_engines))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print("\n== summary")
    print(f"{time.monotonic() - begun:.0f} s, of processors {used.ru_utime + used.ru_stime:.0f} s")
    print(*results, sep="\n")
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
