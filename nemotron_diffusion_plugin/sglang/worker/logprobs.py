"""Log-probabilities of what a verify forward hands over: for diffusion those by which tokens were committed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.slots import SlotTable


def put_commit_scores(
    table: SlotTable, output: Any, slots: np.ndarray, lengths: np.ndarray, stride: int
) -> None:
    """Put the scores by which diffusion requests committed their blocks into SGLang's logits output, in place.

    Args:
        output: has the causal ones of a batch; token j of row r is at r * stride + j of its lists.
        slots: the request slots, host `[R]`.
        lengths: rows of each request in the verify forward, host `[R]`, 0 for one that took no part. The last one's
            token is the next seed, which is a causal pick.
    """
    for row in np.flatnonzero(table.logprobs.is_wanted(slots) & (lengths > 1)):
        committed = int(lengths[row]) - 1
        device = output.next_token_logprobs.device
        scores = table.logprobs.of(int(slots[row]), torch.arange(1, committed + 1, device=device))
        if scores is None:
            continue
        # As SGLang does: infinity has no place in JSON.
        least = torch.finfo(scores.token.dtype).min
        top, named = scores.top.clamp(min=least), scores.named.clamp(min=least)
        output.next_token_logprobs[row, :committed] = scores.token.clamp(min=least)
        first = int(row) * stride
        for token in range(committed):
            if top.shape[1]:
                output.next_token_top_logprobs_val[first + token] = top[token]
                output.next_token_top_logprobs_idx[first + token] = scores.top_ids[token]
            if named.shape[1]:
                output.next_token_token_ids_logprobs_val[first + token] = named[token]
