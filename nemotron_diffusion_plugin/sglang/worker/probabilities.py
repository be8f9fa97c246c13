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


def probabilities(batch: Any, rows: np.ndarray, owner: np.ndarray, logits: torch.Tensor) -> torch.Tensor:
    """Return probabilities `[T, V]` for logits `[T, V]`; row t belongs to the request `rows[owner[t]]` of the batch.

    `rows` and `owner` are on the host. Probabilities do not depend on what other requests of the batch ask for: those
    that cut alike are computed together.
    """
    groups: dict[tuple[int, bool, bool], list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        params = batch.reqs[row].sampling_params
        cut = (min(params.top_k, logits.shape[1]), params.top_p < 1.0, params.min_p > 0)
        groups.setdefault(cut, []).append(place)
    requests = torch.from_numpy(rows[owner]).to(logits.device, non_blocking=True)
    if len(groups) == 1:
        return _of_group(batch.sampling_info, *next(iter(groups)), requests, logits)
    result = torch.empty_like(logits)
    for cut, places in groups.items():
        of_group = torch.from_numpy(np.flatnonzero(np.isin(owner, places))).to(
            logits.device, non_blocking=True
        )
        result[of_group] = _of_group(batch.sampling_info, *cut, requests[of_group], logits[of_group])
    return result


def _of_group(
    info: Any, top_k: int, has_top_p: bool, has_min_p: bool, requests: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Probabilities `[T, V]` of the rows of `requests` (int64 `[T]`) that have one `top_k`."""
    view = _Rows(
        info.temperatures[requests],
        info.top_ks[requests],
        info.top_ps[requests],
        need_top_k_sampling=top_k < logits.shape[1],
        need_top_p_sampling=has_top_p,
    )
    chosen = build_speculative_verify_target_probs(
        next_token_logits=logits, sampling_info=view, draft_token_num=1, bs=len(logits), max_top_k=top_k
    )[:, 0]
    if has_min_p:
        floor = chosen.amax(dim=1, keepdim=True) * info.min_ps[requests][:, None]
        chosen = torch.where(chosen < floor, 0.0, chosen)
        chosen = chosen / chosen.sum(dim=1, keepdim=True)
    return chosen
