"""Linear self-speculation: the model drafts a block for itself and verifies it (docs/model.md, 3.3)."""

import torch

from nemotron_diffusion_plugin.reference.request import SHARED_NOISE, Request
from nemotron_diffusion_plugin.rules.accept import accept_longest_prefix


def decode(request: Request) -> None:
    """Each cycle drafts a block in one bidirectional forward and verifies it in one causal forward.

    The LoRA is on in the draft only. The emitted tokens are the causal picks, so they equal those of AR
    decoding.
    """
    while not request.finished:
        if request.block_length == 1:
            request.causal_step()
            continue
        block = draft(request, request.block_length)
        verified, confidence, keys_values = request.causal(block)
        num_drafts = torch.tensor([block.shape[0] - 1])
        accepted = int(accept_longest_prefix(block[None, 1:], verified[None], num_drafts))
        request.cache.append(keys_values, count=accepted + 1)
        request.result.accepted.append(accepted)
        request.emit(verified[: accepted + 1], confidence)
        request.report("verify", verified[: accepted + 1])


def draft(request: Request, length: int) -> torch.Tensor:
    """Return the drafted block, int64 `[length]`: the seed, and a draft for every mask from one forward."""
    config = request.model.config
    block = torch.full((length,), config.mask_token_id, dtype=torch.int64)
    block[0] = request.seed
    logits = request.bidirectional(block, request.lora if request.options.draft_lora else None)
    drafts, _ = request.pick_masked(logits, request.cache.length, SHARED_NOISE)
    block[1:] = drafts[1:]
    request.result.draft_forwards += 1
    request.report("draft", block)
    return block
