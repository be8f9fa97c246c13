"""Block diffusion (docs/model.md, 3.2)."""

import torch

from nemotron_diffusion_plugin.reference.request import Request
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose
from nemotron_diffusion_plugin.rules.stop import ends_block


def decode(request: Request) -> None:
    """Denoise a block from its seed, then cache it by a causal commit pass, which also picks the next seed.

    A block is denoised in full length even where fewer tokens are wanted; the commit pass runs for the last
    block too. What a stop token leaves masked is never emitted.
    """
    while not request.finished:
        if request.block_length == 1:
            request.causal_step()
            continue
        block, committed = denoise(request, request.block_length)
        picked, confidence, keys_values = request.causal(block)
        request.cache.append(keys_values)
        request.emit(torch.cat([block[1:], picked[-1:]]), torch.cat([committed[1:], confidence[-1:]]))
        request.report("verify", block)


def denoise(request: Request, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the denoised block, int64 `[length]`, its seed first, and the confidences it was committed with.

    Masks stay after a stop token only.
    """
    config = request.model.config
    start = request.cache.length
    rules = CommitRules.of([request.options])
    block = BlockState.start(
        torch.tensor([request.seed]), torch.tensor([length]), length, config.mask_token_id
    )
    num_masks = block.length - 1
    committed = torch.zeros(length)
    steps = 0
    while not block.finished.item():
        logits = request.bidirectional(block.tokens[0])
        steps += 1
        picked, confidence = request.pick_masked(logits, start, noise_step=steps)
        chosen = choose(confidence[None], block.masked, block.step, num_masks, rules)
        committed = torch.where(chosen[0], confidence, committed)
        block.commit(picked[None], chosen)
        request.report("denoise", block.tokens[0], block.masked[0])
        if ends_block(block.tokens, block.masked, request.is_stop(block.tokens[0])[None]).item():
            break
    request.result.denoise_forwards += steps
    request.result.denoise_steps.append(steps)
    return block.tokens[0], committed
