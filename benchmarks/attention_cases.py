"""Paged block attention beside SDPA, FlexAttention, FlashAttention and vLLM's Triton kernel."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.attention_reference import block_attention_reference
from benchmarks.cases import Case, input_sets, relative_error, require_gpu
from benchmarks.timing import Call
from nemotron_diffusion_kernels.block_attention import block_attention, default_tiling

PAGE_SIZE = 16
_VLLM_SEGMENTS = 16
_VLLM_PROGRAMS = 128
SPLIT_LENGTHS = (256, 512, 1024, 2048, 4096)


@dataclass
class Inputs:
    """One batch of equal requests; the arguments of `block_attention` and what the others need."""

    tensors: tuple[torch.Tensor, ...]
    batch: int
    query_length: int
    context: int
    is_causal: bool

    def contiguous(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, keys and values as `[batch, heads, tokens, head_dim]`, copied out of the pages."""
        query, *pages, page_table = self.tensors[:4]
        query = query.view(self.batch, self.query_length, *query.shape[1:]).transpose(1, 2)
        keys, values = (
            part[page_table.long()].flatten(1, 2)[:, : self.context].transpose(1, 2).contiguous()
            for part in pages
        )
        return query.contiguous(), keys, values


def attention_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield the shapes: queries 1 and 32 (causal and bidirectional) over several contexts and batches."""
    if small:
        yield _case(2, 4, 70, True, heads=(4, 2), head_dim=32, splits=(64,), device=device)
        return
    kinds = ((1, True), (32, True), (32, False))
    for batch, context, (query_length, is_causal) in itertools.product(
        (1, 2, 4, 8), (1024, 8192, 32768), kinds
    ):
        splits = tuple(split for split in SPLIT_LENGTHS if split < 2 * context)
        yield _case(
            batch, query_length, context, is_causal, heads=(32, 8), head_dim=128, splits=splits, device=device
        )


def _case(
    batch: int,
    query_length: int,
    context: int,
    is_causal: bool,
    heads: tuple[int, int],
    head_dim: int,
    splits: tuple[int, ...],
    device: torch.device,
) -> Case:
    query_heads, kv_heads = heads
    cache_bytes = 2 * batch * context * kv_heads * head_dim * 2
    query_bytes = batch * query_length * query_heads * head_dim * 2
    sets = [
        Inputs(
            _tensors(batch, query_length, context, is_causal, heads, head_dim, device),
            batch,
            query_length,
            context,
            is_causal,
        )
        for _ in range(input_sets(cache_bytes, small=device.type == "cpu"))
    ]
    options = {"max_query_length": query_length, "max_seq_length": context}
    tiling = default_tiling(query_length, query_heads // kv_heads, bytes_per_value=2)

    def calls(split_length: int) -> list[Call]:
        cut = dataclasses.replace(tiling, split_length=split_length)
        return [lambda one=one: block_attention(*one.tensors, **options, tiling=cut) for one in sets]

    def error() -> float:
        tensors = sets[0].tensors
        result = block_attention(*tensors, **options, out=torch.full_like(tensors[0], torch.nan))
        return relative_error(result, block_attention_reference(*tensors, head_dim**-0.5))

    return Case(
        "block_attention",
        f"{batch} x {query_length} queries, {'causal' if is_causal else 'bidirectional'}, context {context}",
        cache_bytes + 2 * query_bytes,
        calls(tiling.split_length),
        error,
        tolerance=1e-2,
        others={
            **{
                f"this kernel, splits of {length}": lambda length=length: calls(length)
                for length in splits
                if length != tiling.split_length
            },
            "SDPA, contiguous KV": lambda: [_sdpa(one) for one in sets],
            "FlexAttention, contiguous KV": lambda: [_flex(one) for one in sets],
            "FlashAttention of vLLM": lambda: [_flash(one) for one in sets],
            "unified Triton kernel of vLLM": lambda: [_vllm_unified(one) for one in sets],
        },
    )


def _tensors(
    batch: int,
    query_length: int,
    context: int,
    is_causal: bool,
    heads: tuple[int, int],
    head_dim: int,
    device: torch.device,
) -> tuple[torch.Tensor, ...]:
    pages_each = -(-context // PAGE_SIZE)
    pages = (batch * pages_each, PAGE_SIZE, heads[1], head_dim)
    place = {"dtype": torch.bfloat16, "device": device}
    index = {"dtype": torch.int32, "device": device}
    return (
        torch.randn(batch * query_length, heads[0], head_dim, **place),
        torch.randn(pages, **place),
        torch.randn(pages, **place),
        torch.randperm(pages[0], device=device).view(batch, pages_each).int(),
        torch.arange(0, (batch + 1) * query_length, query_length, **index),
        torch.full((batch,), context, **index),
        torch.full((batch,), is_causal, device=device),
    )


def _sdpa(one: Inputs) -> Call:
    query, keys, values = one.contiguous()
    mask = None
    if one.is_causal and one.query_length > 1:
        mask = torch.ones(one.query_length, one.context, dtype=torch.bool, device=query.device)
        mask = mask.tril(one.context - one.query_length)
    return lambda: functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, enable_gqa=True
    )


def _flex(one: Inputs) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    require_gpu()
    query, keys, values = one.contiguous()
    first = one.context - one.query_length
    mask = None
    if one.is_causal:
        mask = create_block_mask(
            lambda b, h, q, k: k <= q + first, None, None, one.query_length, one.context, device=query.device
        )
    fast = torch.compile(flex_attention, dynamic=False)
    return lambda: fast(query, keys, values, block_mask=mask, enable_gqa=True)


def _flash(one: Inputs) -> Call:
    require_gpu()
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    query, keys, values, page_table, starts, lengths, _ = one.tensors
    return lambda: flash_attn_varlen_func(
        query,
        keys,
        values,
        max_seqlen_q=one.query_length,
        cu_seqlens_q=starts,
        max_seqlen_k=one.context,
        seqused_k=lengths,
        causal=one.is_causal,
        block_table=page_table,
        fa_version=3 if torch.cuda.get_device_capability() == (9, 0) else 2,
    )


def _vllm_unified(one: Inputs) -> Call:
    require_gpu()
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    query, keys, values, page_table, starts, lengths, _ = one.tensors
    out, rows = torch.empty_like(query), one.batch * one.query_length
    sums = {"dtype": torch.float32, "device": query.device}
    segments = (
        rows,
        query.shape[1],
        _VLLM_SEGMENTS,
    )  # it cuts the context for single queries only, as vLLM calls it
    output, highest, totals = (
        torch.empty(shape, **sums) for shape in ((*segments, query.shape[2]), segments, segments)
    )
    return lambda: unified_attention(
        q=query,
        k=keys,
        v=values,
        out=out,
        cu_seqlens_q=starts,
        max_seqlen_q=one.query_length,
        seqused_k=lengths,
        max_seqlen_k=one.context,
        softmax_scale=query.shape[2] ** -0.5,
        causal=one.is_causal,
        window_size=(-1, -1),
        block_table=page_table,
        softcap=0.0,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        seq_threshold_3D=_VLLM_PROGRAMS // keys.shape[2],
        num_par_softmax_segments=_VLLM_SEGMENTS,
        softmax_segm_output=output,
        softmax_segm_max=highest,
        softmax_segm_expsum=totals,
    )
