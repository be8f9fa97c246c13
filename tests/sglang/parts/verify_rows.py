"""The causal rows of a verify forward and what it emitted, for tests of acceptance."""

from __future__ import annotations

import numpy as np
import torch

from nemotron_diffusion_plugin.core import Blocks, lay_out_rows
from nemotron_diffusion_plugin.sglang.worker.acceptance import Outcome
from nemotron_diffusion_plugin.sglang.worker.forward import PreparedRows


def causal_rows(index: torch.Tensor, starts: torch.Tensor, lengths: np.ndarray) -> PreparedRows:
    """Blocks of these lengths at `starts`, of the request slots `index`."""
    return prepared(Blocks(index, starts, starts.numpy(), lengths, torch.from_numpy(lengths)))


def prepared(blocks: Blocks) -> PreparedRows:
    """The rows of a causal forward over blocks."""
    laid = lay_out_rows(blocks)
    return PreparedRows(
        **vars(laid),
        blocks=blocks,
        cache_locations=laid.positions,
        layout=None,
        causal=True,
    )


def emitted(outcome: Outcome) -> list[list[int]]:
    """The real tokens of each request; there must be nothing but zeros after them."""
    rows = list(zip(outcome.tokens.tolist(), outcome.lengths.tolist(), strict=True))
    assert all(not any(tokens[length:]) for tokens, length in rows)
    return [tokens[:length] for tokens, length in rows]
