"""The count of engine starts: every process in which an engine starts adds a line to one file of the test run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "NEMOTRON_DIFFUSION_STARTS"
"""Names the file; nothing is counted where it is not set."""


def begin() -> Path:
    """Let this process and those it starts count into a new file, whose path is returned."""
    handle, name = tempfile.mkstemp(prefix="engine-starts-")
    os.close(handle)
    os.environ[VARIABLE] = name
    return Path(name)


def add(what: str, seconds: float | None = None) -> None:
    """Count a start, and say how many seconds it took where that is known."""
    if name := os.environ.get(VARIABLE):
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(what + ("" if seconds is None else f": {seconds:.1f} s") + "\n")


FORKED = "forked"


def add_forked() -> None:
    """Count an engine in a process that was forked from one counted before."""
    add(FORKED)


def read(file: str | Path | None = None) -> list[str]:
    """Return what has been started, a line each."""
    path = Path(file or os.environ.get(VARIABLE) or os.devnull)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def summary(lines: Sequence[str]) -> str:
    """Say how many engines were started, those in forked processes apart."""
    forked = lines.count(FORKED)
    return f"{len(lines) - forked} engine starts" + (f" and {forked} in forked processes" if forked else "")
