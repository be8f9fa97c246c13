"""The commit of a denoise step for a batch of blocks: arguments and checks."""

import torch

from ..backends import check_triton
from ..checks import check_tensor

MAX_BLOCK_SIZE = 128
_NAME = "commit"


def commit(
    tokens: torch.Tensor,
    masked: torch.Tensor,
    step: torch.Tensor,
    num_masks: torch.Tensor,
    picked: torch.Tensor,
    confidence: torch.Tensor,
    kind: torch.Tensor,
    threshold: torch.Tensor,
    steps: torch.Tensor,
    tokens_per_step: torch.Tensor,
    stop_token_ids: torch.Tensor,
) -> torch.Tensor:
    """Commit picked tokens into R blocks, in place, and return which blocks are finished, bool `[R]`.

    Which positions commit is defined by the plugin's `rules.commit.choose` (docs/model.md, 3.2), for a confidence
    that is NaN too. A committed position takes its picked token and is masked no more; `step` grows by one where a
    token was committed. A block is finished when no mask is left, or when a stop token stands before every mask. A
    block without masks does not change and is finished: that is what a row for no request should hold.

    One launch, nothing is read on the host, a row does not depend on other rows.

    Args:
        tokens: int64 `[R, B]`, B 1 to 128; changed in place.
        masked: bool `[R, B]`; changed in place.
        step: int64 `[R]`, denoise steps done; changed in place.
        num_masks: int64 `[R]`, masks of the block at its start.
        picked: int64 `[R, B]`, the token picked at each position.
        confidence: float32 `[R, B]`, its softmax probability.
        kind: int64 `[R]`, the row's rule: 0 threshold, 1 schedule, 2 threshold bound, 3 cumulative error, 4 fixed.
        threshold: float32 `[R]`.
        steps: int64 `[R]`, the most denoise steps of a block, 0 for no bound.
        tokens_per_step: int64 `[R]`, for the rule fixed.
        stop_token_ids: int64 `[R, S]`, the tokens that end a row's request, filled up with -1.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the kernel cannot run here.
    """
    device, integer, real = tokens.device, (torch.int64,), (torch.float32,)
    check_tensor(_NAME, "tokens", tokens, (None, None), integer, device)
    rows, block_size = tokens.shape
    if not 1 <= block_size <= MAX_BLOCK_SIZE:
        raise ValueError(f"{_NAME}: the block size is {block_size}, expected 1 to {MAX_BLOCK_SIZE}")
    check_tensor(_NAME, "masked", masked, (rows, block_size), (torch.bool,), device)
    check_tensor(_NAME, "step", step, (rows,), integer, device)
    check_tensor(_NAME, "num_masks", num_masks, (rows,), integer, device)
    check_tensor(_NAME, "picked", picked, (rows, block_size), integer, device)
    check_tensor(_NAME, "confidence", confidence, (rows, block_size), real, device)
    check_tensor(_NAME, "kind", kind, (rows,), integer, device)
    check_tensor(_NAME, "threshold", threshold, (rows,), real, device)
    check_tensor(_NAME, "steps", steps, (rows,), integer, device)
    check_tensor(_NAME, "tokens_per_step", tokens_per_step, (rows,), integer, device)
    check_tensor(_NAME, "stop_token_ids", stop_token_ids, (rows, None), integer, device)
    check_triton(_NAME, device.type)
    from .triton import commit_triton

    return commit_triton(
        tokens,
        masked,
        step,
        num_masks,
        picked,
        confidence,
        kind,
        threshold,
        steps,
        tokens_per_step,
        stop_token_ids,
    )
