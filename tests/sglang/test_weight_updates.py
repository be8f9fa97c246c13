"""Updates of weights that only SGLang has: over a distributed group, in flat buckets; and reading weights back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file

from tests.common.checkpoints import TRAINED
from tests.common.damage import ADAPTER, WEIGHTS
from tests.engines.server import HOST, free_port
from tests.served.setups import on
from tests.served.test_weight_updates import check_every_mode
from tests.served.updates import Tensors, Updates, restored, write_other
from tests.sglang.servers import Running
from tests.sglang.updates import serialized

pytestmark = [pytest.mark.engine, on("auto")]

GROUP = "trainer"
Q, K = (f"encoder.layers.2.self_attn.{part}_proj.weight" for part in "qk")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other(TRAINED, tmp_path_factory.mktemp("updates") / "other")


@pytest.fixture
def changes(running: Running) -> Iterator[Updates]:
    with restored(running) as changes:
        yield changes


class Trainer:
    """Rank 0 of a group with the server, in this process."""

    def __init__(self, updates: Updates) -> None:
        from sglang.srt.utils import init_custom_process_group

        self.updates, self.pool, port = updates, ThreadPoolExecutor(1), free_port()
        joined = self.pool.submit(
            init_custom_process_group,
            backend="gloo",
            init_method=f"tcp://{HOST}:{port}",
            world_size=2,
            rank=0,
            group_name=GROUP,
        )
        place = {"master_address": HOST, "master_port": port, "rank_offset": 1, "world_size": 2}
        updates.post(
            "/init_weights_update_group", **place, group_name=GROUP, backend="gloo"
        ).raise_for_status()
        self.group = joined.result()

    def send(self, tensors: Tensors, load_format: str | None = None) -> httpx.Response:
        """Broadcast one bucket."""
        from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

        sent = [tensor for _, tensor in tensors]
        if load_format == "flattened_bucket":
            sent = [FlattenedTensorBucket(named_tensors=list(tensors)).get_flattened_tensor()]
        pending = self.pool.submit(
            lambda: [torch.distributed.broadcast(one, src=0, group=self.group) for one in sent]
        )
        body: dict[str, Any] = {
            "names": [name for name, _ in tensors],
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors],
            "shapes": [list(tensor.shape) for _, tensor in tensors],
            "load_format": load_format,
            "group_name": GROUP,
        }
        reply = self.updates.post("/update_weights_from_distributed", **body)
        pending.result()
        return reply

    def leave(self) -> None:
        self.updates.post("/destroy_weights_update_group", group_name=GROUP).raise_for_status()
        torch.distributed.destroy_process_group(self.group)
        self.pool.shutdown()


def test_over_a_distributed_group(running: Running, changes: Updates, other: Path) -> None:
    """A bucket that cannot be taken in between changes nothing."""
    tensors = [*load_file(other / WEIGHTS).items(), *load_file(other / ADAPTER).items()]
    nan = [(name, torch.full_like(tensor, torch.nan)) for name, tensor in tensors[:2]]
    trainer = Trainer(changes)
    changes.post("/begin_weight_update").raise_for_status()
    replies = [trainer.send(tensors[:30]), trainer.send(nan), trainer.send(tensors[30:], "flattened_bucket")]
    changes.post("/end_weight_update").raise_for_status()
    trainer.leave()
    assert [reply.status_code for reply in replies] == [200, 400, 200]
    assert "holds NaN" in replies[1].text
    changes.compare_with(other)
    check_every_mode(running)


def test_in_flat_buckets(running: Running, changes: Updates, other: Path) -> None:
    from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

    tensors = [*load_file(other / WEIGHTS).items(), *load_file(other / ADAPTER).items()]
    changes.post("/begin_weight_update").raise_for_status()
    for half in (tensors[::2], tensors[1::2]):
        bucket = FlattenedTensorBucket(named_tensors=half)
        flat = {"flattened_tensor": bucket.get_flattened_tensor(), "metadata": bucket.get_metadata()}
        body = {"serialized_named_tensors": [serialized(flat)], "load_format": "flattened_bucket"}
        changes.post("/update_weights_from_tensor", **body).raise_for_status()
    changes.post("/end_weight_update").raise_for_status()
    changes.compare_with(other)
    check_every_mode(running)


def test_an_update_in_sglang_s_own_names(running: Running, changes: Updates) -> None:
    """A name that SGLang's model does not have is an answer, not the scheduler's end."""
    for load_format, name, status in (("direct", "model.norm.weight", 200), ("direct", "norm", 400)):
        tensors = [(name, load_file(TRAINED / WEIGHTS)["encoder.norm.weight"])]
        changes.post("/begin_weight_update").raise_for_status()
        body = {"serialized_named_tensors": [serialized(tensors)], "load_format": load_format}
        assert changes.post("/update_weights_from_tensor", **body).status_code == status
        changes.post("/end_weight_update").raise_for_status()
    check_every_mode(running)


def test_weights_by_name(running: Running, changes: Updates, other: Path) -> None:
    """Heads are wider than `hidden_size / num_attention_heads`, so that k begins where SGLang does not look."""
    changes.serve(other)
    tensors = load_file(other / WEIGHTS)
    for name in (Q, K, "encoder.layers.1.mlp.up_proj.weight", "encoder.norm.weight", "diffusion_head.weight"):
        reply = changes.post("/get_weights_by_name", name=name, truncate_size=3)
        torch.testing.assert_close(torch.tensor(reply.json()), tensors[name][:3])
    assert changes.post("/get_weights_by_name", name="encoder.nothing").status_code == 400
