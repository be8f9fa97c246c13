"""How a client changes the weights of a running server; each engine's way is in its `updates.py`."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import load_file, save_file

from tests.common.cases import Reference
from tests.common.checkpoints import TRAINED
from tests.common.damage import ADAPTER, WEIGHTS
from tests.served.client import SECONDS
from tests.served.engine import ENGINE
from tests.served.running import Running

Tensors = Sequence[tuple[str, torch.Tensor]]


@dataclass
class Updates(ABC):
    """Updates of one server's weights. Replies are those of the engine; nothing is asserted about them."""

    running: Running[Any]

    refusal: int
    """The status of a reply to an update that cannot be taken."""

    @abstractmethod
    def from_disk(self, folder: Path) -> httpx.Response:
        """Load a folder and drop the prefix cache."""

    @abstractmethod
    def from_tensors(self, *buckets: Tensors) -> httpx.Response:
        """Send tensors in one update, a bucket at a time; the reply to the first that failed, or to the last."""

    @abstractmethod
    def sleep_and_wake(self, level: int) -> None:
        """Give the memory up and take it again; raises for a failure."""

    @abstractmethod
    def paused(self) -> AbstractContextManager[None]:
        """Nothing is computed in the block; requests under way go on after it."""

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Each call has a connection of its own: vLLM breaks one off after a reply of 500."""
        return httpx.post(self.running.server.url + path, json=body, timeout=SECONDS)

    def serve(self, folder: Path) -> None:
        """Update from a folder, and compare with its reference decoder from now on."""
        reply = self.from_disk(folder)
        assert reply.status_code == 200, reply.text
        self.compare_with(folder)

    def compare_with(self, folder: Path) -> None:
        setup = self.running.setup
        self.running.reference = Reference(folder, setup.context, setup.reference_defaults)

    def until(self, reply: httpx.Response, *paths_and_bodies: tuple[str, dict[str, Any]]) -> httpx.Response:
        """Post one after the other while all is well; the last reply."""
        for path, body in paths_and_bodies:
            if reply.status_code != 200:
                break
            reply = self.post(path, **body)
        return reply


@contextmanager
def restored(running: Running[Any]) -> Iterator[Updates]:
    """The updates of a server, which afterwards has the weights of before."""
    before, changes = running.reference, of(running)
    yield changes
    changes.serve(TRAINED)
    running.reference = before


def of(running: Running[Any]) -> Updates:
    """The updates of a server of the engine installed here."""
    made: Updates = import_module(f"tests.{ENGINE}.updates").make(running)
    return made


def write_other(folder: Path, made: Path) -> Path:
    """Write a checkpoint of other weights, in another dtype, and of another adapter; its answers are others."""
    shutil.copytree(folder, made)
    random = torch.Generator().manual_seed(4)
    for file, dtype, size in ((WEIGHTS, torch.float32, 0.05), (ADAPTER, torch.float16, 1.0)):
        tensors = {name: tensor.float() for name, tensor in load_file(folder / file).items()}
        for tensor in tensors.values():
            tensor.mul_(1 + size * torch.randn(tensor.shape, generator=random))
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, made / file)
    return made
