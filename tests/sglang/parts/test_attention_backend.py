"""The attention backend `nemotron_block`: against plain torch, and a server that uses it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("sglang")

from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from nemotron_diffusion_plugin.sglang.attention import backend as block_attention_backend
from nemotron_diffusion_plugin.sglang.attention import registration as attention_backend
from nemotron_diffusion_plugin.sglang.attention.backend import BlockAttentionBackend
from nemotron_diffusion_plugin.sglang.graphs.choice import check_backends
from nemotron_diffusion_plugin.sglang.worker.forward import BACKENDS, RAGGED_BACKENDS, _ragged_layout
from tests.engines.sglang.launch import CHECKOUT
from tests.sglang.parts import interpreted_attention
from tests.sglang.parts.interpreted_attention import BLOCK, RAGGED, UNIFORM, Batch

pytestmark = pytest.mark.engine

INTERPRETED = {"TRITON_INTERPRET": "1"}


def test_the_kernel() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", interpreted_attention.__file__]
    ran = subprocess.run(
        command, env={**os.environ, **INTERPRETED}, cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("batch", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
@pytest.mark.parametrize("page_size", [1, 32])
def test_nothing_is_read_from_the_device_on_the_host(batch: Batch, page_size: int) -> None:
    """Tensors on `meta` have no contents to read."""
    batch = replace(batch, page_size=page_size)
    backend, forward_batch = batch.backend(), batch.forward_batch(causal=True)
    backend.device, backend.req_to_token = "meta", backend.req_to_token.to("meta")
    forward_batch.seq_lens = forward_batch.seq_lens.to("meta")
    forward_batch.req_pool_indices = forward_batch.req_pool_indices.to("meta")
    if not batch.uniform:
        widths = torch.tensor(batch.widths)
        forward_batch.spec_info.ragged_verify_layout = _ragged_layout(widths.numpy(), widths.to("meta"))
    backend.init_forward_metadata(forward_batch)
    metadata = backend.forward_metadata
    assert metadata.max_seq_length == max(batch.before) + BLOCK
    assert metadata.page_table.shape[1] * page_size >= metadata.max_seq_length


def test_every_other_forward_is_sglangs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(TritonAttnBackend, "init_forward_metadata", lambda self, batch: calls.append("init"))
    monkeypatch.setattr(
        TritonAttnBackend, "forward_extend", lambda self, *given, **named: calls.append(f"extend {named}")
    )
    assert BlockAttentionBackend.forward_decode is TritonAttnBackend.forward_decode
    backend, forward_batch = RAGGED.backend(), RAGGED.forward_batch(causal=True)
    for mode, info in (
        (ForwardMode.EXTEND, None),
        (ForwardMode.DECODE, None),
        (ForwardMode.TARGET_VERIFY, SimpleNamespace(draft_token_num=4)),  # another algorithm's
    ):
        forward_batch.forward_mode, forward_batch.spec_info = mode, info
        backend.init_forward_metadata(forward_batch)
        backend.forward_extend(None, None, None, None, forward_batch, sinks=None)
    assert calls == ["init", "extend {'sinks': None}"] * 3


def test_what_is_relied_on() -> None:
    source = inspect.getsource(TritonAttnBackend.__init__)
    for name in ("req_to_token", "token_to_kv_pool", "page_size", "device", "dcp_size"):
        assert f"self.{name} = " in source, name
    names = list(inspect.signature(TritonAttnBackend.forward_extend).parameters)
    assert names[:7] == ["self", "q", "k", "v", "layer", "forward_batch", "save_kv_cache"]
    names = list(inspect.signature(TritonAttnBackend._set_kv_buffer).parameters)
    assert names == ["self", "forward_batch", "layer", "loc_info", "k", "v", "k_scale", "v_scale"]


def test_registration() -> None:
    for _ in range(2):
        attention_backend.register()
        assert ATTENTION_BACKEND_CHOICES.count(attention_backend.NAME) == 1
    assert ATTENTION_BACKENDS[attention_backend.NAME] is attention_backend._create
    assert attention_backend.NAME in BACKENDS & RAGGED_BACKENDS


def test_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'nemotron_block', expected one of .* add --disable-cuda-graph"):
        check_backends(attention_backend.NAME, attention_backend.NAME)


def runner(**changes: Any) -> Any:
    pool = object.__new__(MHATokenToKVPool)
    pool.kv_cache_layout, pool.dtype, pool.quant_method = "nhd", torch.bfloat16, UNIFORM.pool.quant_method
    usual = SimpleNamespace(
        model_config=SimpleNamespace(head_dim=128, v_head_dim=128),
        token_to_kv_pool=pool,
        dtype=torch.bfloat16,
        sliding_window_size=None,
        kv_index_translator=SimpleNamespace(is_translating=False),
        decode_num_tokens_per_req=lambda: 32,
        device="cpu",
    )
    vars(usual).update(changes)
    return usual


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_to_kv_pool": SimpleNamespace()}, "needs one ordinary pool of keys and values"),
        ({"dtype": torch.float16}, r"cannot read keys in torch.bfloat16 next to queries in torch.float16"),
        ({"model_config": SimpleNamespace(head_dim=80, v_head_dim=80)}, "head sizes .*, not 80 and 80"),
        ({"model_config": SimpleNamespace(head_dim=128, v_head_dim=64)}, "head sizes .*, not 128 and 64"),
        ({"decode_num_tokens_per_req": lambda: 65}, "blocks up to 64, not 65"),
        ({"sliding_window_size": 128}, "no sliding window"),
        ({"kv_index_translator": SimpleNamespace(is_translating=True)}, "as they are"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(block_attention_backend, "get_parallel", lambda: SimpleNamespace(attn_dcp_size=1))
    assert block_attention_backend.problem(runner()) is None
    with pytest.raises(ValueError, match=f"got 'nemotron_block', .*{reason}.*; use --attention-backend"):
        BlockAttentionBackend(runner(**changes))


def test_a_device_that_cannot_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match=r"attention_backend 'nemotron_block': .* needs tensors on a GPU"):
        BlockAttentionBackend(runner())
