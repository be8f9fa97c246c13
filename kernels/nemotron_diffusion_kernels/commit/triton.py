"""The commit of a denoise step in Triton: one program per block, ranks by comparing all pairs."""

import torch
import triton
import triton.language as tl

_THRESHOLD = tl.constexpr(0)
_THRESHOLD_BOUND = tl.constexpr(2)
_CUMULATIVE_ERROR = tl.constexpr(3)
_FIXED = tl.constexpr(4)
_BOUND_MINIMUM = tl.constexpr(0.45)
_BOUND_FACTOR = tl.constexpr(2.0)
_NO_STEP_BOUND = tl.constexpr(0)
_NO_STOP = tl.constexpr(-1)


@triton.jit
def _commit_kernel(
    tokens,
    masked,
    step,
    num_masks,
    picked,
    confidence,
    kinds,
    thresholds,
    step_bounds,
    tokens_per_step,
    stop_token_ids,
    finished,
    tokens_stride,
    masked_stride,
    picked_stride,
    confidence_stride,
    stops_stride,
    BLOCK_SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    STOPS: tl.constexpr,
    STOP_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_column = column < BLOCK_SIZE
    is_masked = tl.load(masked + row * masked_stride + column, mask=is_column, other=0) != 0
    p = tl.load(confidence + row * confidence_stride + column, mask=is_column, other=0.0)
    old = tl.load(tokens + row * tokens_stride + column, mask=is_column, other=-1)
    new = tl.load(picked + row * picked_stride + column, mask=is_column, other=-1)
    done = tl.load(step + row)
    masks = tl.load(num_masks + row)
    kind = tl.load(kinds + row)
    threshold = tl.load(thresholds + row)
    bound = tl.load(step_bounds + row)

    key = tl.where(is_masked, tl.where(p == p, p, -1.0), -2.0)
    is_before = (key[None, :] > key[:, None]) | (
        (key[None, :] == key[:, None]) & (column[None, :] < column[:, None])
    )
    place = tl.sum(is_before.to(tl.int32), 1)

    divisor = tl.maximum(tl.where(bound != _NO_STEP_BOUND, bound, masks), 1)
    count = masks // divisor + (done < masks % divisor).to(tl.int64)
    is_certain = p >= threshold
    needed = 1.0 - tl.div_rn(tl.full([COLUMNS], _BOUND_FACTOR, tl.float32), (place + 2).to(tl.float32))
    by_place = (p >= _BOUND_MINIMUM) & (p >= needed)
    taken = (place == 0) | (place < count)
    taken |= (kind == _THRESHOLD) & is_certain
    taken |= (kind == _THRESHOLD_BOUND) & (is_certain | by_place)
    taken |= (kind == _FIXED) & (place < tl.load(tokens_per_step + row))
    if kind == _CUMULATIVE_ERROR:
        product = tl.full([COLUMNS], 1.0, dtype=tl.float64)
        for rank in range(0, BLOCK_SIZE):
            product *= tl.sum(tl.where(place == rank, p, 0.0), 0).to(tl.float64)
            taken |= (place == rank) & (product.to(tl.float32) >= threshold)
    chosen = taken & is_masked

    result = tl.where(chosen, new, old)
    left = is_masked & (chosen == 0)
    tl.store(tokens + row * tokens_stride + column, result, mask=is_column)
    tl.store(masked + row * masked_stride + column, left, mask=is_column)
    tl.store(step + row, done + tl.max(chosen.to(tl.int32), 0))

    first_mask = tl.min(tl.where(left, column, COLUMNS), 0)
    stop = tl.arange(0, STOP_COLUMNS)
    ids = tl.load(stop_token_ids + row * stops_stride + stop, mask=stop < STOPS, other=_NO_STOP)
    is_stop = (result[:, None] == ids[None, :]) & is_column[:, None]
    first_stop = tl.min(tl.min(tl.where(is_stop, column[:, None], COLUMNS), 1), 0)
    tl.store(finished + row, (first_mask == COLUMNS) | (first_stop < first_mask))


def commit_triton(
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
    """Change the blocks and return which are finished; the arguments are those of `commit`, checked there."""
    rows, block_size = tokens.shape
    finished = masked.new_empty(rows)
    if rows == 0:
        return finished
    num_stops = stop_token_ids.shape[1]
    columns, stop_columns = triton.next_power_of_2(block_size), triton.next_power_of_2(max(1, num_stops))
    _commit_kernel[(rows,)](
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
        finished,
        tokens.stride(0),
        masked.stride(0),
        picked.stride(0),
        confidence.stride(0),
        stop_token_ids.stride(0),
        BLOCK_SIZE=block_size,
        COLUMNS=columns,
        STOPS=num_stops,
        STOP_COLUMNS=stop_columns,
        num_warps=1 if columns * stop_columns <= 1024 else 4,
    )
    return finished
