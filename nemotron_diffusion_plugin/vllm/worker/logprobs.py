"""Log-probabilities of a verify forward's rows: for diffusion those by which tokens were committed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.slots import SlotTable

LOGITS_MODES = ("raw_logits", "processed_logits")
"""Settings of `--logprobs-mode` with which vLLM reports logits."""


def put_commit_scores(
    table: SlotTable, tensors: Any, slots: np.ndarray, bounds: np.ndarray, positions: torch.Tensor
) -> None:
    """Put the scores by which diffusion requests committed their tokens into vLLM's `LogprobsTensors`, in place.

    Args:
        slots: the request slots, host `[R]`; the rows of request r are `bounds[r]` to `bounds[r + 1]`, host `[R + 1]`.
        positions: of the rows of logits, int64 `[T]`; a row's token stands one place further.
    """
    for request in np.flatnonzero(table.logprobs.is_wanted(slots)):
        slot, rows = int(slots[request]), slice(int(bounds[request]), int(bounds[request + 1]))
        inside, places, _ = table.planned_token(table.on_device(np.array([slot])), positions[rows])
        scores = table.logprobs.of(slot, places)
        if scores is None:
            continue
        _put(tensors.logprobs, rows, 0, scores.token[:, None], inside)
        _put(tensors.selected_token_ranks[:, None], rows, 0, scores.rank[:, None], inside)
        _put(tensors.logprobs, rows, 1, scores.named if scores.named.shape[1] else scores.top, inside)
        _put(tensors.logprob_token_ids, rows, 1, scores.top_ids, inside)


def _put(target: torch.Tensor, rows: slice, column: int, values: torch.Tensor, inside: torch.Tensor) -> None:
    part = target[rows, column : column + values.shape[1]]
    part.copy_(torch.where(inside[:, None], values.to(part.dtype), part))
