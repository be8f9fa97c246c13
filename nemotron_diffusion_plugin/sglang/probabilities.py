"""The distribution a request samples from: temperature, top-k, top-p and min-p, in SGLang's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.srt.speculative.dflash_utils import build_speculative_verify_target_probs


@dataclass
class _Rows:
    """The fields of SGLang's sampling parameters that its function reads, one entry per row of logits."""

    temperatures: torch.Tensor
    top_ks: torch.Tensor
    top_ps: torch.Tensor
    need_top_k_sampling: bool
    need_top_p_sampling: bool


def probabilities(batch: Any, rows: np.ndarray, owner: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return probabilities `[T, V]` for logits `[T, V]`; row t belongs to the request `rows[owner[t]]` of the batch."""
    params = [batch.reqs[int(row)].sampling_params for row in rows]
    info = batch.sampling_info
    request = torch.from_numpy(rows).to(logits.device)[owner]
    vocab = logits.shape[1]
    top_k = min(max(one.top_k for one in params), vocab)
    view = _Rows(
        info.temperatures[request],
        info.top_ks[request],
        info.top_ps[request],
        need_top_k_sampling=any(one.top_k < vocab for one in params),
        need_top_p_sampling=any(one.top_p < 1.0 for one in params),
    )
    chosen = build_speculative_verify_target_probs(
        next_token_logits=logits, sampling_info=view, draft_token_num=1, bs=len(logits), max_top_k=top_k
    )[:, 0]
    if any(one.min_p > 0 for one in params):
        floor = chosen.amax(dim=1, keepdim=True) * info.min_ps[request][:, None]
        chosen = torch.where(chosen < floor, 0.0, chosen)
        chosen = chosen / chosen.sum(dim=1, keepdim=True)
    return chosen
