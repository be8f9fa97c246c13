"""The causal rows of a verify forward and what it emitted, for tests of acceptance."""

from __future__ import annotations

import numpy as np
import torch

from nemotron_diffusion_plugin.core import lay_out_rows
from nemotron_diffusion_plugin.sglang.worker.acceptance import Outcome
from nemotron_diffusion_plugin.sglang.worker.forward import PreparedBlocks


def causal_rows(index: torch.Tensor, starts: torch.Tensor, widths: np.ndarray) -> PreparedBlocks:
    """Blocks of these widths behind `starts`, of the request slots `index`."""
    laid = lay_out_rows(widths, starts, torch.from_numpy(widths))
    return PreparedBlocks(
        **vars(laid),
        widths=widths,
        starts_host=starts.numpy(),
        index=index,
        starts=starts,
        cache_locations=laid.positions,
        layout=None,
        causal=True,
    )


def emitted(outcome: Outcome) -> list[list[int]]:
    """The real tokens of each request; there must be nothing but zeros behind them."""
    rows = list(zip(outcome.tokens.tolist(), outcome.lengths.tolist(), strict=True))
    assert all(not any(tokens[length:]) for tokens, length in rows)
    return [tokens[:length] for tokens, length in rows]
