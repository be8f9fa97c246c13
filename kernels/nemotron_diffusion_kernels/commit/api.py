"""The commit of a denoise step for a batch of blocks: arguments, checks, choice of backend."""

import torch

from ..backends import resolve
from ..checks import check_rows_contiguous, check_tensor
from .rules import Rules

MAX_BLOCK_SIZE = 128
_NAME = "commit"


def commit(
    tokens: torch.Tensor,
    masked: torch.Tensor,
    step: torch.Tensor,
    num_masks: torch.Tensor,
    picked: torch.Tensor,
    confidence: torch.Tensor,
    rules: Rules,
    stop_token_ids: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Commit picked tokens into R blocks, in place, and return which blocks are finished, bool `[R]`.

    A block with masks commits its most confident masked position (ties: the lowest position) and what its rule
    adds (docs/model.md, 3.2); with a step bound at least the scheduled number. A committed position takes
    its picked token and is masked no more; `step` grows by one where a token was committed. A block is finished
    when no mask is left, or when a stop token stands before every mask. A block without masks does not change
    and is finished: that is what a row for no request should hold.

    One launch, nothing is read on the host, a row does not depend on other rows. A confidence that is NaN ranks
    first and reaches no threshold, so that a block still ends.

    Args:
        tokens: int64 `[R, B]`, B 1 to 128; changed in place.
        masked: bool `[R, B]`; changed in place.
        step: int64 `[R]`, denoise steps done; changed in place.
        num_masks: int64 `[R]`, masks of the block at its start.
        picked: int64 `[R, B]`, the token picked at each position.
        confidence: float32 `[R, B]`, its softmax probability.
        rules: one rule per row.
        stop_token_ids: int64 `[R, S]`, the tokens that end a row's request, filled up with -1; None for none.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the backend asked for cannot run here.
    """
    device, integer = tokens.device, (torch.int64,)
    check_tensor(_NAME, "tokens", tokens, (None, None), integer, device)
    rows, block_size = tokens.shape
    if not 1 <= block_size <= MAX_BLOCK_SIZE:
        raise ValueError(f"{_NAME}: the block size is {block_size}, expected 1 to {MAX_BLOCK_SIZE}")
    matrices = {"tokens": tokens, "masked": masked, "picked": picked, "confidence": confidence}
    for name, matrix in matrices.items():
        dtype = {"masked": torch.bool, "confidence": torch.float32}.get(name, torch.int64)
        check_tensor(_NAME, name, matrix, (rows, block_size), (dtype,), device)
        check_rows_contiguous(_NAME, name, matrix)
    vectors = {
        "step": step,
        "num_masks": num_masks,
        "rules.kind": rules.kind,
        "rules.threshold": rules.threshold,
        "rules.steps": rules.steps,
        "rules.tokens_per_step": rules.tokens_per_step,
    }
    for name, vector in vectors.items():
        dtype = torch.float32 if name == "rules.threshold" else torch.int64
        check_tensor(_NAME, name, vector, (rows,), (dtype,), device)
        check_rows_contiguous(_NAME, name, vector)
    if stop_token_ids is not None:
        check_tensor(_NAME, "stop_token_ids", stop_token_ids, (rows, None), integer, device)
        check_rows_contiguous(_NAME, "stop_token_ids", stop_token_ids)
    arguments = (tokens, masked, step, num_masks, picked, confidence, rules, stop_token_ids)
    if resolve(_NAME, backend, device) == "torch":
        from .reference import commit_reference

        return commit_reference(*arguments)
    from .triton import commit_triton

    return commit_triton(*arguments)
