"""Updates of vLLM's weights: `reload_weights` by RPC, and a transfer engine of the tests that reads files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from safetensors.torch import save_file

from tests.served import updates
from tests.served.running import Running
from tests.served.updates import Tensors


class Updates(updates.Updates):
    """Through the endpoints that `VLLM_SERVER_DEV_MODE` opens."""

    def from_disk(self, folder: Path) -> httpx.Response:
        reply = self.post("/collective_rpc", method="reload_weights", kwargs={"weights_path": str(folder)})
        return self.until(reply, ("/reset_prefix_cache", {}))

    def from_tensors(self, *buckets: Tensors) -> httpx.Response:
        with TemporaryDirectory() as folder:
            infos = []
            for number, bucket in enumerate(buckets):
                infos.append({"path": f"{folder}/{number}.safetensors"})
                save_file(dict(bucket), infos[-1]["path"])
            return self.until(
                self.post("/start_weight_update"),
                *(("/update_weights", {"update_info": info}) for info in infos),
                ("/finish_weight_update", {}),
                ("/reset_prefix_cache", {}),
            )

    def sleep_and_wake(self, level: int) -> None:
        for path in (f"/sleep?level={level}", "/wake_up"):
            self.post(path).raise_for_status()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.post("/pause?mode=keep").raise_for_status()
        yield
        self.post("/resume").raise_for_status()


def make(running: Running[Any]) -> Updates:
    return Updates(running, refusal=500)
