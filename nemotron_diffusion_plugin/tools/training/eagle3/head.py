"""The network of an Eagle3 head in plain torch, with the tensor names of published heads.

A head is one decoder layer on top of a target model. It sees the token after each position beside what the target
computed at that position, the inputs of three of its layers fused into one vector. It drafts token after token: a
draft takes the place of the next token, and the head's own output that of the target's vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from nemotron_diffusion_plugin.reference.model import GatedMLP, KeyValueCache, ReferenceModel


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The shape of a head.

    ``layers``: the target's layers whose inputs the head sees, counted from 0, ascending.
    """

    hidden_size: int
    vocab_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layers: tuple[int, ...]
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.layers) != 3 or list(self.layers) != sorted({*self.layers}) or self.layers[0] < 1:
            raise ValueError(f"layers: got {self.layers}, expected three different ones from 1 up, ascending")


@dataclass(frozen=True, slots=True)
class Context:
    """Texts of which every column's target vectors are known.

    ``tokens``: int64[N, T], padded on the left; ``padding``: int64[N], columns on the left that hold no text;
    ``features``: float32[N, T, 3 * hidden_size], what the target computed at each column.
    """

    tokens: torch.Tensor
    padding: torch.Tensor
    features: torch.Tensor


class Eagle3Head(nn.Module):
    """The head's own weights; the embedding is the target's."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(3 * config.hidden_size, config.hidden_size, bias=False)
        self.midlayer = _MidLayer(config)
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def chains(
        self, embedding: nn.Embedding, context: Context, starts: torch.Tensor, steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield the hidden states of ``steps`` draft steps, each ``[N, R, hidden_size]``, for `lm_head`.

        ``starts``: int64[N, R], the column at which each chain of drafts starts. Step s reads the context's token of
        column start + s + 1, as if the drafts before it had been right, and predicts the token of column
        start + s + 2. A column past the end reads the last token.
        """
        tokens, width = context.tokens, context.tokens.shape[1]
        columns = torch.arange(width, device=tokens.device)
        following = embedding(tokens[:, (columns + 1).clamp(max=width - 1)])
        fused = self.fc(context.features)
        positions = (columns - context.padding[:, None]).clamp(min=0)
        attention = self.midlayer.self_attn
        keys, values = attention.keys_values(self.midlayer.inputs(following, fused), positions)
        seen = (columns <= starts[..., None]) & (columns >= context.padding[:, None, None])
        own: list[tuple[torch.Tensor, torch.Tensor]] = []
        hidden = _take(fused, starts)
        for step in range(steps):
            read = _take(following, (starts + step).clamp(max=width - 1))
            joined = self.midlayer.inputs(read, hidden)
            place = (starts - context.padding[:, None] + step).clamp(min=0)
            if step:
                own.append(attention.keys_values(joined, place))
            hidden = self.midlayer(hidden, attention(joined, place, keys, values, seen, own))
            yield self.norm(hidden)


class _MidLayer(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = nn.RMSNorm(size, eps)
        self.hidden_norm = nn.RMSNorm(size, eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(size, eps)
        self.mlp = GatedMLP(size, config.intermediate_size)

    def inputs(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.input_layernorm(embedded), self.hidden_norm(hidden)], dim=-1)

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class _Attention(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.head_dim, self.theta = config.head_dim, config.rope_theta
        self.groups = config.num_attention_heads // config.num_key_value_heads
        queries = config.num_attention_heads * config.head_dim
        shared = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(2 * config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(2 * config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(2 * config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def keys_values(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._rotate(self._heads(self.k_proj(x)), positions), self._heads(self.v_proj(x))
        return keys.repeat_interleave(self.groups, 1), values.repeat_interleave(self.groups, 1)

    def forward(
        self,
        x: torch.Tensor,  # [N, R, 2 * hidden_size]
        positions: torch.Tensor,  # [N, R]
        keys: torch.Tensor,  # [N, heads, T, head_dim], of the text
        values: torch.Tensor,
        seen: torch.Tensor,  # [N, R, T], the columns of the text that a chain sees
        own: list[
            tuple[torch.Tensor, torch.Tensor]
        ],  # of each chain's drafts so far, [N, heads, R, head_dim]
    ) -> torch.Tensor:
        queries = self._rotate(self._heads(self.q_proj(x)), positions) / self.head_dim**0.5
        scores = (queries @ keys.transpose(2, 3)).masked_fill(~seen[:, None], -torch.inf)
        to_own = [(queries * own_keys).sum(-1, keepdim=True) for own_keys, _ in own]
        shares = torch.cat([scores, *to_own], dim=-1).softmax(-1)
        width = keys.shape[2]
        mixed = shares[..., :width] @ values
        for index, (_, own_values) in enumerate(own):
            mixed = mixed + shares[..., width + index, None] * own_values
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        half = self.head_dim // 2
        inv_freq = self.theta ** (-torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = (positions[..., None].float() * inv_freq)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _take(x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))


@torch.no_grad()
def read_target(
    model: ReferenceModel,
    tokens: torch.Tensor,
    padding: torch.Tensor,
    layers: tuple[int, ...],
    cache: KeyValueCache | None = None,
) -> tuple[Context, torch.Tensor]:
    """Run the target causally and return what a head sees of it, and its normed hidden states ``[N, T, H]``.

    ``tokens``: int64[N, T], padded on the left by ``padding`` columns; ``layers``: those whose inputs are kept.
    """
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> torch.utils.hooks.RemovableHandle:
        return model.encoder.layers[layer].register_forward_pre_hook(
            lambda module, arguments: kept.__setitem__(layer, arguments[0])
        )

    handles = [keep(layer) for layer in layers]
    try:
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        seen = (columns <= columns[:, None]) & (columns >= padding[:, None, None])
        seen = seen | torch.eye(len(columns), dtype=torch.bool, device=tokens.device)
        positions = (columns - padding[:, None]).clamp(min=0)
        hidden, _ = model(tokens, positions, seen, cache=cache, return_hidden=True)
    finally:
        for handle in handles:
            handle.remove()
    features = torch.cat([kept[layer] for layer in layers], dim=-1)
    return Context(tokens, padding, features), hidden
