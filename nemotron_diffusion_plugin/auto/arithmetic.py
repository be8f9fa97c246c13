"""What a forward should cost by shapes and data sheet (docs/roofline.md), where nobody has measured it."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import ModelShape

EAGER_MS_PER_LAYER = 0.15
"""What the arithmetic takes the launches of a layer to last where a forward replays no CUDA graph. A guess."""

MASK_MS = 0.25
"""What the arithmetic takes xgrammar to need for a mask of `_MASK_VOCABULARY` tokens in a JSON schema. Measured."""

_MASK_VOCABULARY = 131072

EFFICIENCY = 0.75
"""The share of a data sheet's bandwidth and FLOP/s that the arithmetic counts on."""

DEFAULT_GPU = "h200"
_MOST_ROWS = 1 << 14


def known_gpu(device_name: str) -> str:
    """The card whose data sheet stands for a device, `DEFAULT_GPU` for one that is not known."""
    return next((name for name in GPUS if name in device_name.lower()), DEFAULT_GPU)


def arithmetic_costs(hf_config: Any, device_name: str, tensor_parallel: int = 1) -> ForwardCosts:
    """What a forward should cost by shapes and data sheet, at `EFFICIENCY` (docs/roofline.md).

    Weights and KV count as 16 bits wide. Communication between ranks, launches and the host are not counted.
    """
    shape = _shape(hf_config)
    gpu = GPUS[known_gpu(device_name)].at(EFFICIENCY, EFFICIENCY)
    one, most = (forward_cost(shape.network, rows, 0, 1, Precision()) for rows in (1, _MOST_ROWS))
    read, compute = one.memory_time(gpu), most.compute_time(gpu) / _MOST_ROWS
    # Below the border a forward takes as long as reading the weights does, above it as long as computing the rows.
    border = max(2, round(read / compute))
    scale = 1e3 / tensor_parallel
    points = ((1, read * scale), (border, read * scale), (2 * border, 2 * read * scale))
    per_token = forward_cost(shape.network, 0, 1, 1, Precision()).kv_bytes / (gpu.bandwidth * 1e12)
    return ForwardCosts(
        points,
        points,
        per_token * scale,
        EAGER_MS_PER_LAYER * hf_config.num_hidden_layers,
        MASK_MS * hf_config.vocab_size / _MASK_VOCABULARY,
    )


def cached_token_share(hf_config: Any) -> float:
    """The bytes of a cached token's keys and values over those of the weights, both 16 bits wide."""
    network = _shape(hf_config).network
    weights = forward_cost(network, 0, 0, 1, Precision()).weight_bytes
    return forward_cost(network, 0, 1, 1, Precision()).kv_bytes / weights


def _shape(hf_config: Any) -> ModelShape:
    return ModelShape(
        "served",
        hidden=hf_config.hidden_size,
        intermediate=hf_config.intermediate_size,
        layers=hf_config.num_hidden_layers,
        heads=hf_config.num_attention_heads,
        kv_heads=hf_config.num_key_value_heads,
        head_dim=hf_config.head_dim,
        vocab=hf_config.vocab_size,
    )
