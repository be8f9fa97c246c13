"""Paged block attention behind vLLM's interface, in Triton's interpreter: results, bits, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch

pytest.importorskip("vllm")

from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from nemotron_diffusion_plugin.vllm.attention import metadata as block_attention_metadata
from nemotron_diffusion_plugin.vllm.attention import registration as attention_backend
from nemotron_diffusion_plugin.vllm.attention.backend import BlockAttentionBackend, BlockAttentionImpl
from nemotron_diffusion_plugin.vllm.attention.metadata import BlockMetadataBuilder
from tests.vllm.parts.paged_batch import BLOCK, HEADS, LONGEST, SIZE, SPEC, Batch, builder, config

pytestmark = pytest.mark.engine

VERIFY = Batch([40, 0, 7, 64, 20], [8, 1, 5, 8, 0])
DRAFT = replace(VERIFY, causal=False)
MIXED = replace(VERIFY, causal=[True, True, False, False, True])
PREFILL = Batch([30, 0, 17], [20, 40, 1])
"""Two prompts longer than a block and a decode row."""


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize(
    "batch", [VERIFY, DRAFT, MIXED, PREFILL], ids=["verify", "draft", "mixed", "prefill"]
)
def test_as_plain_torch(batch: Batch, layout: str) -> None:
    batch = replace(batch, layout=layout)
    torch.testing.assert_close(batch.attend(), batch.expected(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("batch", [DRAFT, MIXED, PREFILL], ids=["draft", "mixed", "prefill"])
@pytest.mark.parametrize("rows", [BLOCK, 19])
def test_in_several_calls(batch: Batch, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sums of all rows would take too much memory; bit-equal to one call."""
    together = batch.attend()
    monkeypatch.setattr(block_attention_metadata, "SUMS_BYTES", rows * HEADS * SIZE * 4)
    metadata = builder().build(0, batch.described())
    sizes = [part.rows.stop - part.rows.start for part in metadata.parts]
    assert len(sizes) > 1
    assert sum(sizes) == sum(batch.rows)
    assert max(sizes) <= rows
    assert torch.equal(batch.attend(metadata), together)


def test_cached_in_8_bits() -> None:
    batch = replace(DRAFT, kv_cache_dtype="fp8", scales=(0.5, 0.25))
    torch.testing.assert_close(batch.attend(), batch.expected(), rtol=0.1, atol=0.1)
    stored = replace(batch)
    stored.cache = stored.cache.view(torch.uint8)
    assert torch.equal(stored.attend(), batch.attend())


@pytest.mark.parametrize("batch", [VERIFY, DRAFT, PREFILL], ids=["verify", "draft", "prefill"])
def test_a_request_is_the_same_alone(batch: Batch) -> None:
    """Bit for bit: whether its neighbours are blocks, prompts or nobody."""
    together, first = batch.attend(), 0
    for request, rows in enumerate(batch.rows):
        part = slice(first, first + rows)
        first += rows
        if rows:
            described = builder().build(0, _only(batch, request))
            alone = replace(batch)
            alone.query = batch.query[part]
            assert torch.equal(alone.attend(described), together[part])


def test_a_row_of_a_prompt_is_the_same_in_a_block_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With products whose rows do not depend on their place in a tile, unlike those of NumPy's library."""

    def matmul(left: Any, right: Any, dtype: Any = numpy.float32) -> Any:
        product = numpy.zeros((left.shape[0], right.shape[1]), dtype)
        for column, row in zip(left.T.astype(dtype), right.astype(dtype), strict=True):
            product += column[:, None] * row[None]
        return product

    monkeypatch.setattr(numpy, "matmul", matmul)
    prompt, first = PREFILL.attend(), 0
    for request, rows in enumerate(PREFILL.rows):
        for begin, end in ((0, 1), (rows - BLOCK - 1, rows - 1), (rows - 1, rows)):
            if begin >= 0:
                later = replace(PREFILL)
                later.query = PREFILL.query[first + begin : first + end]
                described = _only(PREFILL, request, end - begin, later=rows - end)
                part = later.attend(builder().build(0, described))
                assert torch.equal(part, prompt[first + begin : first + end])
        first += rows


def _only(batch: Batch, request: int, rows: int | None = None, later: int = 0) -> Any:
    """One request of a batch, or `rows` of it with `later` ones behind them."""
    whole, rows = batch.described(), batch.rows[request] if rows is None else rows
    starts = torch.tensor([0, rows], dtype=torch.int32)
    return whole.replace(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=whole.seq_lens[request : request + 1] - later,
        num_reqs=1,
        num_actual_tokens=rows,
        max_query_len=rows,
        max_seq_len=LONGEST,
        block_table_tensor=whole.block_table_tensor[request : request + 1],
    )


def test_a_block_is_a_request_as_it_is() -> None:
    """A graph replays with the engine's own buffers, padded with empty requests."""
    given = VERIFY.described(padding=2)
    [part] = builder().build(0, given).parts
    for name in ("query_start_loc", "seq_lens"):
        assert getattr(part, name).data_ptr() == getattr(given, name).data_ptr()
    assert part.page_table.data_ptr() == given.block_table_tensor.data_ptr()
    again = builder()
    flags = [again.build(0, given).parts[0].is_causal.data_ptr() for _ in range(2)]
    assert flags[0] == flags[1]
    batch = replace(VERIFY)
    metadata = builder().build(0, given)
    query = torch.cat([batch.query, torch.zeros(2, HEADS, SIZE)])
    output = torch.full_like(query, torch.nan)
    impl = BlockAttentionImpl(HEADS, SIZE, SIZE**-0.5, 2)
    impl.forward(None, query, query, query, batch.cache, metadata, output)
    torch.testing.assert_close(output[:-2], batch.expected(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("batch", [DRAFT, MIXED, PREFILL], ids=["draft", "mixed", "prefill"])
def test_nothing_is_read_from_the_device_on_the_host(batch: Batch) -> None:
    """Tensors on `meta` have no contents to read."""
    parts = builder("meta").build(0, batch.described("meta")).parts
    assert {part.page_table.device.type for part in parts} == {"meta"}
    assert sum(part.rows.stop - part.rows.start for part in parts) == sum(batch.rows)


@pytest.mark.parametrize("causal", [False, [False, True, True]])
def test_a_long_request_that_need_not_be_causal_is_refused(causal: Any) -> None:
    with pytest.raises(ValueError, match=f"got 40 rows of a request .*expected at most {BLOCK}"):
        builder().build(0, replace(PREFILL, causal=causal).described())


@pytest.mark.parametrize(("drafts", "capacity"), [(None, 1), (7, 8), (31, 32), (200, 64)])
def test_the_capacity_is_the_widest_block(drafts: int | None, capacity: int) -> None:
    assert builder(drafts=drafts).capacity == capacity


@pytest.mark.parametrize(
    ("max_model_len", "captured", "support"),
    [
        (LONGEST, 0, AttentionCGSupport.UNIFORM_BATCH),
        (512, (1 << 20), AttentionCGSupport.UNIFORM_BATCH),
        (513, (1 << 20), AttentionCGSupport.NEVER),
        (1 << 20, 512, AttentionCGSupport.UNIFORM_BATCH),
        (1 << 20, 513, AttentionCGSupport.NEVER),
    ],
)
def test_graphs_where_one_call_takes_the_largest(
    max_model_len: int, captured: int, support: AttentionCGSupport
) -> None:
    """512 MiB hold 2^20 rows of 4 heads of size 32, per split of 512 tokens."""
    given = config(max_model_len=max_model_len, captured=captured)
    assert BlockMetadataBuilder.get_cudagraph_support(given, SPEC) is support


def test_what_vllm_may_ask() -> None:
    usual: dict[str, Any] = {
        "head_size": 128,
        "dtype": torch.bfloat16,
        "kv_cache_dtype": "auto",
        "block_size": 16,
        "use_mla": False,
        "has_sink": False,
        "use_sparse": False,
        "use_mm_prefix": False,
        "use_per_head_quant_scales": False,
        "device_capability": DeviceCapability(9, 0),
        "attn_type": "decoder",
        "use_non_causal": True,
    }
    refused = BlockAttentionBackend.validate_configuration
    for allowed in ({}, {"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "bfloat16"}, {"block_size": 48}):
        assert refused(**usual | allowed) == []
    for changes, reason in (
        ({"head_size": 80}, "head_size not supported"),
        ({"kv_cache_dtype": "float16"}, "keys in float16 next to queries in torch.bfloat16"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "kv_cache_dtype not supported"),
        ({"device_capability": DeviceCapability(7, 5)}, "compute capability not supported"),
        ({"has_sliding_window": True}, "sliding window not supported"),
        ({"has_sink": True}, "attention sinks not supported"),
        ({"attn_type": "encoder_only"}, "attention type encoder_only not supported"),
        ({"use_adaptive_verification": True}, "query lens mismatch not supported"),
    ):
        [said] = refused(**usual | changes)
        assert reason in said


@pytest.mark.parametrize(
    "unusual",
    [{"alibi_slopes": [1.0]}, {"sliding_window": 8}, {"logits_soft_cap": 30.0}, {"attn_type": "encoder"}],
)
def test_layers_that_it_cannot_compute_are_refused(unusual: dict[str, Any]) -> None:
    [name] = unusual
    with pytest.raises(ValueError, match=f"{name}: got .*expected .*with --attention-backend CUSTOM"):
        BlockAttentionImpl(HEADS, SIZE, 1.0, 2, **unusual)


def test_quantized_output_is_refused() -> None:
    impl, row = BlockAttentionImpl(HEADS, SIZE, 1.0, 2), torch.ones(1, HEADS, SIZE)
    with pytest.raises(NotImplementedError, match="quantized output"):
        impl.forward(None, row, row, row, row, None, row, output_scale=torch.ones(1))
    assert not impl.forward(None, row, row, row, row, None, row).any(), "vLLM measures memory without a batch"


def test_registration(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    custom = AttentionBackendEnum.CUSTOM
    for _ in range(2):
        attention_backend.register()
        assert custom.get_class() is BlockAttentionBackend
    assert AttentionBackendEnum[BlockAttentionBackend.get_name()] is custom
    try:
        register_backend(custom, "another.Backend")
        with caplog.at_level(logging.WARNING, logger=attention_backend.logger.name):
            monkeypatch.setattr(attention_backend.logger, "propagate", True)
            attention_backend.register()
        assert custom.get_path() == "another.Backend"
        assert "another.Backend, which another plugin has registered" in caplog.text
    finally:
        register_backend(custom, attention_backend.BACKEND_CLASS)
