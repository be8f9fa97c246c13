"""Rotary frequencies with YaRN and the position-dependent query scale (docs/model.md, 1.2)."""

import math
from collections.abc import Mapping
from typing import Any

import torch


def yarn_inv_freq(head_dim: int, rope_parameters: Mapping[str, Any]) -> torch.Tensor:
    """Return the inverse frequencies, float32 `[head_dim / 2]`.

    Below the ramp the plain frequency is kept, above it the frequency is divided by `factor` (which may be
    below 1), and in between both are mixed linearly. `rope_type` "default" means no scaling.
    """
    theta = float(rope_parameters["rope_theta"])
    wavelengths = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    plain = 1.0 / wavelengths
    if rope_parameters.get("rope_type", "default") == "default":
        return plain
    low, high = yarn_ramp(head_dim, rope_parameters)
    index = torch.arange(head_dim // 2, dtype=torch.float32)
    kept = 1.0 - ((index - low) / max(high - low, 1e-3)).clamp(0.0, 1.0)
    return 1.0 / (float(rope_parameters["factor"]) * wavelengths) * (1.0 - kept) + plain * kept


def yarn_ramp(head_dim: int, rope_parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first and the last frequency index of YaRN's ramp (20 and 37 for the published 8B)."""

    def index_of(rotations: float) -> float:
        wavelength = rope_parameters["original_max_position_embeddings"] / (rotations * 2.0 * math.pi)
        return head_dim * math.log(wavelength) / (2.0 * math.log(rope_parameters["rope_theta"]))

    low = math.floor(index_of(rope_parameters.get("beta_fast", 32.0)))
    high = math.ceil(index_of(rope_parameters.get("beta_slow", 1.0)))
    return max(low, 0), min(high, head_dim - 1)


def yarn_attention_factor(rope_parameters: Mapping[str, Any]) -> float:
    """Return the factor that YaRN applies to cos and sin: 1.0 whenever `mscale` equals `mscale_all_dim`."""
    if rope_parameters.get("rope_type", "default") == "default":
        return 1.0
    factor = float(rope_parameters["factor"])

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0

    return magnitude(rope_parameters.get("mscale", 1.0)) / magnitude(
        rope_parameters.get("mscale_all_dim", 1.0)
    )


def query_scale(positions: torch.Tensor, rope_parameters: Mapping[str, Any]) -> torch.Tensor:
    """Return `1 + beta * ln(1 + floor(position / original_max))`, float32, shaped like int64 `positions`.

    Applies to queries after RoPE; keys are not scaled. Ones when `llama_4_scaling_beta` is absent.
    """
    beta = rope_parameters.get("llama_4_scaling_beta")
    if beta is None:
        return torch.ones(positions.shape, dtype=torch.float32, device=positions.device)
    wraps = torch.div(positions, rope_parameters["original_max_position_embeddings"], rounding_mode="floor")
    return 1.0 + beta * torch.log1p(wraps.float())
