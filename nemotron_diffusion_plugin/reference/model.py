"""The network in plain torch with an explicit visibility mask (docs/model.md, 1.2, 1.3 and 2)."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.reader import read_config, read_tensors
from nemotron_diffusion_plugin.model.rope import query_scale, yarn_attention_factor, yarn_inv_freq

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer the keys and values of one forward, each `[N, kv_heads, T, head_dim]`."""


class KeyValueCache:
    """Keys and values that causal forwards with the base weights left, per layer `[N, kv_heads, S, head_dim]`."""

    def __init__(self) -> None:
        self.layers: KeysValues = []

    @property
    def length(self) -> int:
        """The number of cached positions."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def append(self, new: KeysValues, count: int | None = None) -> None:
        """Keep the first `count` positions of a forward's keys and values, all of them when None."""
        kept = [(keys[:, :, :count], values[:, :, :count]) for keys, values in new]
        if not self.layers:
            self.layers = kept
            return
        self.layers = [
            (torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2))
            for (old_keys, old_values), (keys, values) in zip(self.layers, kept, strict=True)
        ]


class ReferenceModel(nn.Module):
    """The decoder whose parameters carry the published tensor names; differentiable."""

    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.diffusion_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_checkpoint(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> "ReferenceModel":
        """Read a checkpoint folder; raises `CheckpointError` when it is incomplete or damaged."""
        config = read_config(folder)
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(read_tensors(folder, config, dtype), assign=True)
        return model.eval().requires_grad_(False)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        visible: torch.Tensor,
        cache: KeyValueCache | None = None,
        lora: DrafterLora | None = None,
        return_hidden: bool = False,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Run one forward and return the logits `[N, T, vocab]` and the new keys and values, to keep or not.

        Args:
            input_ids: int64 `[N, T]`.
            positions: int64 `[T]` or `[N, T]`, absolute.
            visible: bool `[T, S]` or `[N, T, S]`, True where a row attends; S = cached + new.
            cache: keys and values before the new ones; not changed.
            lora: the drafter LoRA, given in draft forwards only.
            return_hidden: return the normed hidden states `[N, T, hidden_size]` instead of the logits.
        """
        hidden = self.encoder.embed_tokens(input_ids)
        rotation = self._rotation(positions, hidden.dtype)
        mask = visible if visible.dim() == 2 else visible[:, None]
        new: KeysValues = []
        for index, layer in enumerate(self.encoder.layers):
            past = cache.layers[index] if cache is not None and cache.layers else None
            hidden, keys_values = layer(hidden, rotation, mask, past, lora)
            new.append(keys_values)
        hidden = self.encoder.norm(hidden)
        return (hidden if return_hidden else self.diffusion_head(hidden)), new

    def _rotation(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rope = self.config.rope_parameters
        inv_freq = yarn_inv_freq(self.config.head_dim, rope).to(positions.device)
        angles = positions[..., None].float() * inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        factor = yarn_attention_factor(rope)
        scale = query_scale(positions, rope)[..., None]
        parts = (angles.cos() * factor, angles.sin() * factor, scale)
        cos, sin, scale = (part.to(dtype).unsqueeze(-3) for part in parts)
        return cos, sin, scale


class _RMSNorm(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Attention(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        query, key_value = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value, bias=False)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)

    def forward(
        self,
        x: torch.Tensor,  # [N, T, hidden_size]
        rotation: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        mask: torch.Tensor,  # [T, S] or [N, 1, T, S]
        past: tuple[torch.Tensor, torch.Tensor] | None,
        lora: DrafterLora | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        cos, sin, scale = rotation
        queries = _rotate(self._heads(self.q_proj(x)), cos, sin) * scale
        new_keys = _rotate(self._heads(self.k_proj(x)), cos, sin)
        new_values = self._heads(self.v_proj(x))
        keys, values = new_keys, new_values
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        mixed = scaled_dot_product_attention(
            queries,
            keys.repeat_interleave(self.groups, dim=1),
            values.repeat_interleave(self.groups, dim=1),
            attn_mask=mask,
        )
        mixed = mixed.transpose(1, 2).flatten(2)  # [N, T, heads * head_dim]
        output = self.o_proj(mixed)
        if lora is not None:
            output = output + lora.delta(self.layer, mixed)
        return output, (new_keys, new_values)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class GatedMLP(nn.Module):
    """SiLU-gated MLP of a Llama layer, `[..., size]` to `[..., size]`, `width` wide inside."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, width, bias=False)
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = _RMSNorm(config)
        self.self_attn = _Attention(config, layer)
        self.post_attention_layernorm = _RMSNorm(config)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
        lora: DrafterLora | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        attended, keys_values = self.self_attn(self.input_layernorm(x), rotation, mask, past, lora)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), keys_values


class _Encoder(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = _RMSNorm(config)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
