"""Quadratic self-speculation: verify and draft share one forward a cycle (docs/model.md, 3.4)."""

from collections.abc import Sequence

import torch

from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.model import KeysValues
from nemotron_diffusion_plugin.reference.request import SHARED_NOISE, Request


def decode(request: Request, prompt: Sequence[int]) -> None:
    """Every cycle verifies the drafts and drafts anew after each of them, so one forward does both.

    The forward counts as a verify. The drafter LoRA is off: its rows would share the forward with causal
    rows.
    """
    draft = _prefill(request, prompt)
    while not request.finished:
        if request.block_length == 1:
            request.causal_step()
            continue
        draft = draft[: request.block_length]
        causal_picks, confidence, next_drafts, keys_values = _forward(request, draft)
        agrees = (causal_picks[:-1] == draft[1:]).long()
        accepted = int(agrees.cumprod(dim=0).sum())
        request.cache.append(keys_values, count=accepted + 1)
        request.result.accepted.append(accepted)
        request.emit(causal_picks[: accepted + 1], confidence)
        draft = next_drafts[accepted]
        request.report("verify", draft)


def _prefill(request: Request, prompt: Sequence[int]) -> torch.Tensor:
    """Cache the prompt and return the first draft: the AR pick and picks of masks after the prompt."""
    count, length = len(prompt), request.options.block_size
    tokens = torch.cat([torch.tensor(list(prompt)), _masks(request, length)])
    logits, keys_values = request.model(
        tokens[None], torch.arange(count + length), masks.prompt_and_masks(count, length)
    )
    request.cache.append(keys_values, count=count)
    request.emit(*request.pick_causal(logits[0, count - 1 : count], first_position=count))
    picks, _ = request.pick_masked(logits[0, count:], count, SHARED_NOISE)
    draft = torch.cat([torch.tensor([request.seed]), picks[1:]])
    request.report("prefill", draft)
    return draft


def _forward(
    request: Request, draft: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, KeysValues]:
    """Return causal picks after each draft `[n]`, their confidences, the next draft after each `[n, n]`, and the KV.

    Row j of the next drafts starts with the causal pick after draft j.
    """
    start, count = request.cache.length, draft.shape[0]
    groups = torch.cat([draft[:, None], _masks(request, count).expand(count, count)], dim=1)
    positions = start + torch.arange(count)[:, None] + torch.arange(count + 1)[None]
    logits, keys_values = request.model(
        groups.reshape(1, -1), positions.reshape(-1), masks.quadratic(count, start), request.cache
    )
    request.result.verify_forwards += 1
    grouped = logits[0].unflatten(0, (count, count + 1))  # [n, n + 1, V]
    causal_picks, confidence = request.pick_causal(grouped[:, 0], first_position=start + 1)
    following = [
        request.pick_masked(grouped[group, 1:], start + group + 1, SHARED_NOISE)[0] for group in range(count)
    ]
    next_drafts = torch.stack(following)
    next_drafts[:, 0] = causal_picks
    clean = torch.arange(count) * (count + 1)
    return (
        causal_picks,
        confidence,
        next_drafts,
        [(keys[:, :, clean], values[:, :, clean]) for keys, values in keys_values],
    )


def _masks(request: Request, count: int) -> torch.Tensor:
    return torch.full((count,), request.model.config.mask_token_id, dtype=torch.int64)
