"""What the installer runs: commands with a log, under a lock; third-party packages are not needed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engines.recipe import SetupError

START = time.monotonic()


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Hold an exclusive lock beside `target`, so that two set-ups at once wait for each other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(*command: object, log: Path) -> None:
    """Run a command with its output appended to `log`; every half minute say that it is still running.

    Raises:
        SetupError: it failed; the message ends with the last lines of the log.
    """
    words = [str(word) for word in command]
    with log.open("a") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=clean_environment())
        while True:
            try:
                status = process.wait(timeout=30)
                break
            except subprocess.TimeoutExpired:
                say(f"still installing, {time.monotonic() - START:.0f} s so far")
    if status != 0:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SetupError(f"this command failed: {' '.join(words)}\n  {tail}\nThe whole output is in {log}")


def capture(*command: object) -> str:
    """Run a command and return what it prints, without surrounding white space."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=clean_environment()
    ).stdout.strip()


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables that would let another Python's packages in."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def say(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr, flush=True)
