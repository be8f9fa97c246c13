"""Paged block attention as a vLLM attention backend: prefill, verify forwards and drafts by one operator."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from typing_extensions import override
from vllm import _custom_ops as ops
from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, AttentionType, MultipleOf
from vllm.v1.kv_cache_interface import is_quantized_kv_cache

from nemotron_diffusion_kernels.block_attention import block_attention
from nemotron_diffusion_kernels.block_attention.api import HEAD_SIZES
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.vllm.attention.metadata import BlockMetadata, BlockMetadataBuilder
from nemotron_diffusion_plugin.vllm.attention.registration import NAME

_OLDEST = (8, 0)
_STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@checked_overrides
class BlockAttentionBackend(AttentionBackend):
    """What vLLM asks before it takes the backend; vLLM refuses the rest with the reason."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3"]
    forward_includes_kv_cache_update: bool = False

    @staticmethod
    @override
    def get_name() -> str:
        """A name of vLLM's list."""
        return NAME

    @staticmethod
    @override
    def get_impl_cls() -> type[BlockAttentionImpl]:
        """What a layer runs."""
        return BlockAttentionImpl

    @staticmethod
    @override
    def get_builder_cls() -> type[BlockMetadataBuilder]:
        """What prepares a forward."""
        return BlockMetadataBuilder

    @staticmethod
    @override
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        """Any page would do; pages of 64 and its multiples need one page-table entry per step of the kernel."""
        return [MultipleOf(16)]

    @classmethod
    @override
    def get_supported_head_sizes(cls) -> list[int]:
        """The operator's."""
        return list(HEAD_SIZES)

    @classmethod
    @override
    def supports_non_causal(cls) -> bool:
        """Drafts are bidirectional."""
        return True

    @classmethod
    @override
    def supports_device_cpu_query_lens_mismatch(cls) -> bool:
        """Prompts are cut by the lengths that the host knows."""
        return False

    @classmethod
    @override
    def supports_compute_capability(cls, capability: Any) -> bool:
        """bfloat16 products."""
        return bool(capability >= _OLDEST)

    @classmethod
    @override
    def supports_combination(
        cls, head_size: int, dtype: torch.dtype, kv_cache_dtype: str | None, *_: Any, **__: Any
    ) -> str | None:
        """The cache holds the queries' type, or fp8."""
        stored = _STORED.get(kv_cache_dtype or "", dtype)
        return (
            None if stored == dtype else f"keys in {kv_cache_dtype} next to queries in {dtype} not supported"
        )


@checked_overrides
class BlockAttentionImpl(AttentionImpl[BlockMetadata]):
    """One layer: keys and values are written by vLLM's kernel, then every row reads all it sees from the cache."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
    ) -> None:
        for name, value, expected in (
            ("alibi_slopes", alibi_slopes, None),
            ("sliding_window", sliding_window, None),
            ("logits_soft_cap", logits_soft_cap or None, None),
            ("attn_type", attn_type, AttentionType.DECODER),
        ):
            if value != expected:
                raise ValueError(
                    f"{name}: got {value!r}, expected {expected!r} with --attention-backend {NAME}; use another backend"
                )
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.is_fp8 = is_quantized_kv_cache(kv_cache_dtype)
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write keys and values `[T, KV heads, head_size]` to the slots int64 `[T]`; negative ones are left out."""
        key_cache, value_cache = self._halves(kv_cache)
        ops.reshape_and_cache_flash(
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping,
            self.kv_cache_dtype,
            layer._k_scale,
            layer._v_scale,
        )

    @override
    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: BlockMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write and return `output` for queries, both `[T, heads, head_size]`.

        The cache is `[pages, KV heads, page, 2 * head_size]`, each head's key before its value, in any physical order.

        Raises NotImplementedError for quantized output.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError(f"quantized output is not supported by --attention-backend {NAME}")
        if attn_metadata is None:  # vLLM measures memory
            return output.fill_(0)
        key_pages, value_pages = self._halves(kv_cache)
        if self.is_fp8:
            key_pages, value_pages = (
                pages.view(torch.float8_e4m3fn) if pages.dtype == torch.uint8 else pages
                for pages in (key_pages, value_pages)
            )
        for part in attn_metadata.parts:
            block_attention(
                query[part.rows],
                key_pages,
                value_pages,
                part.page_table,
                part.query_start_loc,
                part.seq_lens,
                part.is_causal,
                max_query_length=part.max_query_length,
                max_seq_length=part.max_seq_length,
                scale=self.scale,
                key_scale=layer._k_scale_float if self.is_fp8 else 1.0,
                value_scale=layer._v_scale_float if self.is_fp8 else 1.0,
                out=output[part.rows],
                tiling=attn_metadata.tiling,
            )
        return output

    def _halves(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as `[pages, page, KV heads, head_size]`, views of the cache in any layout."""
        keys, values = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        return keys, values
