"""The two views that an attention layer has of the same KV."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention

from nemotron_diffusion_plugin.sglang.models.nemotron_labs_diffusion import NemotronLabsDiffusionAttention

pytestmark = pytest.mark.engine


def layer() -> NemotronLabsDiffusionAttention:
    """An attention layer without projections."""
    attention = NemotronLabsDiffusionAttention.__new__(NemotronLabsDiffusionAttention)
    torch.nn.Module.__init__(attention)
    attention.num_heads, attention.num_kv_heads, attention.head_dim, attention.scaling = 4, 2, 32, 0.5
    attention.attn = RadixAttention(4, 32, 0.5, num_kv_heads=2, layer_id=7)
    config = SimpleNamespace(rope_parameters={"rope_type": "default"}, llama_4_scaling=None)
    NemotronLabsDiffusionAttention.adopt(attention, config)
    return attention


def test_both_views_read_the_same_cache() -> None:
    attention = layer()
    causal, bidirectional = attention.attn, attention._bidirectional_view()
    assert bidirectional.attn_type is AttentionType.ENCODER_ONLY
    assert causal.attn_type is AttentionType.DECODER
    for name in ("layer_id", "tp_q_head_num", "tp_k_head_num", "head_dim", "scaling"):
        assert getattr(bidirectional, name) == getattr(causal, name), name


def test_the_adapter_is_that_of_the_layer() -> None:
    assert layer().draft_lora.layer == 7


def test_scales_of_a_quantized_cache_are_shared() -> None:
    """They come with the weights, after the layer was built."""
    attention = layer()
    attention.attn.k_scale = torch.nn.Parameter(torch.tensor(0.25), requires_grad=False)
    attention.attn.v_scale = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    attention.attn.k_scale_float, attention.attn.v_scale_float = 0.25, 0.5
    view = attention._bidirectional_view()
    assert view.k_scale is attention.attn.k_scale
    assert view.v_scale is attention.attn.v_scale
    assert (view.k_scale_float, view.v_scale_float) == (0.25, 0.5)
