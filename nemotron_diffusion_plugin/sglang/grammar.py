"""Grammars over a chain of drafts: what SGLang's grammar backend allows behind each draft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def grammar_mask(batch: Any, rows: np.ndarray, chains: torch.Tensor) -> Callable[[torch.Tensor], None] | None:
    """Return what masks logits `[R * W, V]` of the batch rows `rows` in place; None when no grammar is active there.

    `chains` int64 `[R, W]` are seed and drafts. A draft that the grammar forbids is rejected, because the row before it
    cannot choose it. SGLang runs batches with a grammar without overlap: the grammars have taken in every step before.
    """
    from sglang.srt.speculative.spec_utils import GrammarTree, build_grammar_vocab_mask

    mask = build_grammar_vocab_mask(
        reqs=[batch.reqs[int(row)] for row in rows],
        tree=GrammarTree.from_linear_chain(chains),
        sampling_info=batch.sampling_info,
        device=chains.device,
        barrier=None,
    )
    return None if mask is None else mask.apply
