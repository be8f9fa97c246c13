"""Updates of SGLang's weights, through its own endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.served import updates
from tests.served.running import Running
from tests.served.updates import Tensors


def serialized(tensors: Any) -> str:
    """What one rank of a server is sent; the tensors themselves lie in shared memory."""
    import torch.multiprocessing
    from sglang.srt.utils import MultiprocessingSerializer

    torch.multiprocessing.set_sharing_strategy("file_system")  # descriptors are passed within a family only
    text: str = MultiprocessingSerializer.serialize(tensors, output_str=True)
    return text


class Updates(updates.Updates):
    """Each drops the prefix cache, which is SGLang's default."""

    def from_disk(self, folder: Path) -> httpx.Response:
        return self.post("/update_weights_from_disk", model_path=str(folder))

    def from_tensors(self, *buckets: Tensors) -> httpx.Response:
        reply = self.until(
            self.post("/begin_weight_update"),
            *(
                ("/update_weights_from_tensor", {"serialized_named_tensors": [serialized(list(bucket))]})
                for bucket in buckets
            ),
        )
        self.post("/end_weight_update").raise_for_status()
        return reply

    def sleep_and_wake(self, level: int) -> None:
        """Level 1 gives up the KV cache, level 2 the weights too."""
        tags = ["kv_cache", "weights"][:level]
        for path in ("/release_memory_occupation", "/resume_memory_occupation"):
            self.post(path, tags=tags).raise_for_status()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Requests are retracted, so that the cache can be dropped."""
        self.post("/pause_generation", mode="retract").raise_for_status()
        yield
        self.post("/continue_generation", torch_empty_cache=False).raise_for_status()


def make(running: Running[Any]) -> Updates:
    return Updates(running, refusal=400)
