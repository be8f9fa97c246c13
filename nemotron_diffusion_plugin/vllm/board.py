"""Counters shared by the engine core, which writes them, and the API server, which shows them.

The scheduler statistics that vLLM sends to the API server have no room for a plugin's own numbers, so the scheduler
writes them into a small file of 64-bit counters that is named after the engine and removed with it. Several API servers
share vLLM's folder of metrics, and the files are there.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving import counters
from nemotron_diffusion_plugin.settings import MOST_AUTO_BLOCKS, ServerSettings
from nemotron_diffusion_plugin.vllm.log import logger

PER_MODE = (*counters.PER_MODE, *(f"{kind}_forwards" for kind in counters.KINDS))
DECISIONS = tuple(f"decisions_{place}" for place in range(MOST_AUTO_BLOCKS + 1))
BUCKETS = {
    histogram.name: tuple(f"{histogram.name}_{place}" for place in range(len(histogram.edges) + 1))
    for histogram in counters.HISTOGRAMS
}
SUMS = {histogram.name: f"{histogram.name}_sum" for histogram in counters.HISTOGRAMS}
PER_ENGINE = (
    *DECISIONS,
    *(f"{attention}_forwards" for attention in counters.ATTENTION),
    *(name for buckets in BUCKETS.values() for name in buckets),
    *SUMS.values(),
)
_SIZE = len(DecodingMode) * len(PER_MODE) + len(PER_ENGINE)
_ROW = {mode: index * len(PER_MODE) for index, mode in enumerate(DecodingMode)}
_PLACES = {name: len(DecodingMode) * len(PER_MODE) + place for place, name in enumerate(PER_ENGINE)}


def decision(settings: ServerSettings, length: int) -> str:
    """The counter for a block of this length: that of the shortest length of the server's that is no shorter."""
    return DECISIONS[bisect.bisect_left((1, *settings.auto_blocks), length)]


def board_path(vllm_config: Any) -> Path:
    """Where the counters of this engine lie; data-parallel engines have a board each."""
    folder, stem = _place(vllm_config)
    return folder / f"{stem}-{vllm_config.parallel_config.data_parallel_index}.counters"


def _place(vllm_config: Any) -> tuple[Path, str]:
    """The folder of the boards of a server, and how their names begin.

    Where there are several API servers each one has a configuration of its own, with an instance id of its own; what
    they share is a folder.
    """
    if shared := shared_folder():
        return shared, "nemotron-diffusion"
    instance = vllm_config.instance_id.partition("_dp")[0]
    return Path(tempfile.gettempdir()), f"nemotron-diffusion-{os.getuid()}-{instance}"


def shared_folder() -> Path | None:
    """The folder in which several API servers of one server keep their metrics; None where there is one."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def _index(name: str, mode: DecodingMode | None) -> int:
    if mode is None:
        return _PLACES[name]
    return _ROW[mode] + PER_MODE.index(name)


class CounterBoard:
    """The writer's side; counters start at zero.

    Counters are no reason to fail: where the file cannot be written they stay in this process, with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counts: np.ndarray
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                file.truncate(_SIZE * 8)
            self._counts = np.memmap(path, dtype=np.int64, mode="r+", shape=(_SIZE,))
        except OSError as error:
            logger.warning("nemotron_diffusion:* metrics will read 0: %s", error)
            self._counts = np.zeros(_SIZE, dtype=np.int64)
        self.close = weakref.finalize(self, path.unlink, missing_ok=True)
        """Removes the file, also when the process ends; a reader that has it open keeps the last values."""

    def add(self, name: str, mode: DecodingMode | None = None, amount: int = 1) -> None:
        """Raise a counter of `PER_MODE` (with its mode) or of `PER_ENGINE` (mode None)."""
        self._counts[_index(name, mode)] += amount

    def observe(self, histogram: counters.Histogram, value: int) -> None:
        """Add a value to a histogram."""
        self.add(BUCKETS[histogram.name][bisect.bisect_left(histogram.edges, value)])
        self.add(SUMS[histogram.name], amount=value)


class BoardReader:
    """The reader's side: the sum over the engines of a server, zero until the first one has started.

    It removes what its engines leave behind when they are ended from outside; a shared folder goes with its server.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._vllm_config = vllm_config
        self._counts: dict[Path, np.ndarray] = {}
        if shared_folder() is None:
            weakref.finalize(self, _remove_boards, vllm_config)

    def refresh(self) -> None:
        """Look for the boards of engines that have started since."""
        for path in _boards(self._vllm_config):
            if path not in self._counts:
                with contextlib.suppress(OSError, ValueError):
                    self._counts[path] = np.memmap(path, dtype=np.int64, mode="r", shape=(_SIZE,))

    def value(self, name: str, mode: DecodingMode | None = None) -> int:
        """The present value of a counter, over the boards that are known."""
        if not self._counts:
            self.refresh()
        return sum(int(counts[_index(name, mode)]) for counts in self._counts.values())


def _boards(vllm_config: Any) -> list[Path]:
    folder, stem = _place(vllm_config)
    return list(folder.glob(f"{stem}-*.counters"))


def _remove_boards(vllm_config: Any) -> None:
    for path in _boards(vllm_config):
        path.unlink(missing_ok=True)
