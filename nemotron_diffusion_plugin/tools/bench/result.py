"""One JSON file with everything that a run measured and what it takes to repeat it, written after every cell."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.bench.counts import Counts, total
from nemotron_diffusion_plugin.tools.bench.setup import Setup

SCHEMA = "nemotron-diffusion/bench/1"
_OTHER = {"setup": "another setup", "versions": "other versions", "hardware": "other hardware"}
_ASKING = ("python", "nemotron-diffusion-plugin", "httpx")
_PACKAGES = ("nemotron-diffusion-plugin", "vllm", "sglang", "torch", "transformers", "triton", "httpx")


@dataclass
class Load:
    """One timed run of a method at a concurrency: times in seconds, per request where they are lists.

    ``first`` has the requests whose answer had text, ``per_token`` those with more than one token.
    """

    method: str
    concurrency: int
    repeat: int
    requests: int
    prompt_tokens: int
    tokens: int
    seconds: float
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    gap_percentiles: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all requests per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Result:
    """The file of a run. A run with the same setup goes on where the file ends."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path, self.setup = path, setup
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "setup": setup.to_json(),
            "started": _now(),
            "finished": None,
            "versions": versions() if setup.url is None else versions_around(setup),
            "hardware": hardware(),
            "servers": {},
            "counts": {},
            "checks": {},
            "loads": [],
        }

    @classmethod
    def open(cls, path: Path, setup: Setup) -> Result:
        """Return the file's content for a run with this setup, or that of a new run.

        Raises:
            ValueError: the file is of a run with another setup, with other versions or on another machine, or of
                something else.
        """
        result = cls(path, setup)
        if path.exists():
            content = read(path)
            for part in _OTHER:
                _compare(path, part, content[part], result.content[part])
            result.content = content
        return result

    @property
    def counts(self) -> dict[str, dict[str, Counts]]:
        """Counts by method and category."""
        return {
            method: {category: Counts.from_json(cell) for category, cell in cells.items()}
            for method, cells in self.content["counts"].items()
        }

    def total(self, method: str) -> Counts:
        """The counts of a method over all categories measured."""
        return total(list(self.counts.get(method, {}).values()))

    @property
    def loads(self) -> list[Load]:
        return [Load(**cell) for cell in self.content["loads"]]

    def loads_of(self, method: str, concurrency: int) -> list[Load]:
        """The timed runs of a method at a concurrency."""
        return [load for load in self.loads if (load.method, load.concurrency) == (method, concurrency)]

    def has_counts(self, method: str, category: str) -> bool:
        return category in self.content["counts"].get(method, {})

    def has_load(self, method: str, concurrency: int, repeat: int) -> bool:
        return any(load.repeat == repeat for load in self.loads_of(method, concurrency))

    def has_check(self, method: str) -> bool:
        return method in self.content["checks"]

    def add_counts(self, method: str, category: str, counts: Counts) -> None:
        """Keep a finished cell."""
        self.content["counts"].setdefault(method, {})[category] = counts.to_json()
        self.save()

    def add_load(self, load: Load) -> None:
        """Keep a finished cell."""
        self.content["loads"].append(vars(load).copy())
        self.save()

    def add_check(self, method: str, check: Mapping[str, Any]) -> None:
        """Keep what a comparison with the reference decoder found."""
        self.content["checks"][method] = dict(check)
        self.save()

    def add_server(self, kind: str, command: list[str], seconds_to_ready: float) -> None:
        """Note how a server was started; kept with the first cell that it measures."""
        self.content["servers"][kind] = {"command": command, "seconds_to_ready": round(seconds_to_ready, 1)}

    def finish(self) -> None:
        """Note that everything is measured."""
        self.content["finished"] = self.content["finished"] or _now()
        self.save()

    def save(self) -> None:
        """Write the file; a reader sees the old content or the new one, never a part."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)


def read(path: Path) -> dict[str, Any]:
    """Return the content of a run's file.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: expected a result of `nemotron-diffusion bench`, schema '{SCHEMA}'")
    return content


def versions() -> dict[str, str]:
    """Return the versions of Python and of what takes part, where it is installed here."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions_around(setup: Setup) -> dict[str, str]:
    """Return the versions of what asks a running server, and of its engine, which may be on another machine."""
    ours = {name: version for name, version in versions().items() if name in _ASKING}
    return ours | ({setup.engine: setup.engine_version} if setup.engine_version else {})


def hardware() -> dict[str, Any]:
    """Return what the machine is, in general terms: processor type, cores, memory in GiB, GPUs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]


def _compare(path: Path, part: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where a part of a file's content is not that of this run: its cells would not be comparable."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"{path} is the result of {_OTHER[part]}: '{name}' is {then.get(name)!r} there and {now.get(name)!r} "
                "now; choose another --output, or remove it to begin anew"
            )


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
