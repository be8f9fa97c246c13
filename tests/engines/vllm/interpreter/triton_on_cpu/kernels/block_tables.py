"""Kernels of `vllm.v1.worker.gpu.block_table` and `buffer_utils`: block tables and cache slots.

Tables of several cache groups come as tensors of addresses; `_table` looks at the int32 memory behind one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from torch import Tensor

from triton_on_cpu.kernels.interpreted import covers

_GATHER = "vllm.v1.worker.gpu.block_table._gather_block_tables_kernel"
_SLOTS = "vllm.v1.worker.gpu.block_table._compute_slot_mappings_kernel"
_WRITE = "vllm.v1.worker.gpu.buffer_utils._apply_write_kernel"


@covers(
    _GATHER,
    case=lambda arguments, options: not options.get("MASK_SLIDING_WINDOW"),
    grid=lambda arguments: (arguments[3].shape[0], arguments[6]),
)
def gather_block_tables(
    batch_idx_to_req_idx: Tensor,
    src_block_table_ptrs: Tensor,
    dst_block_table_ptrs: Tensor,
    block_table_strides: Tensor,
    num_blocks: Tensor,
    num_blocks_stride: int,
    num_reqs: int,
    *_of_sliding_windows: object,
    **_launch: object,
) -> None:
    """Copy each request's block ids into the row of the batch it has in this step, for every cache group.

    The kernel also zeroes rows that pad a batch to the size of a CUDA graph; a CPU has none.
    """
    slots, blocks = batch_idx_to_req_idx.numpy()[:num_reqs], num_blocks.numpy()
    groups = zip(
        src_block_table_ptrs.tolist(),
        dst_block_table_ptrs.tolist(),
        block_table_strides.tolist(),
        strict=True,
    )
    for group, (source_address, target_address, width) in enumerate(groups):
        source, target = (
            _table(source_address, int(slots.max()) + 1, width),
            _table(target_address, num_reqs, width),
        )
        for row, slot in enumerate(slots):
            count = blocks[group, slot]
            target[row, :count] = source[slot, :count]


@covers(
    _SLOTS,
    case=lambda arguments, options: options["CP_SIZE"] == 1,
    grid=lambda arguments: (arguments[4].shape[0], arguments[1].shape[0] + 1),
)
def compute_slot_mappings(
    max_num_tokens: int,
    idx_mapping: Tensor,
    query_start_loc: Tensor,
    pos: Tensor,
    block_table_ptrs: Tensor,
    block_table_strides: Tensor,
    block_sizes: Tensor,
    slot_mapping_enabled: Tensor,
    dcp_sharded: Tensor,
    slot_mappings: Tensor,
    slot_mappings_stride: int,
    cp_rank: int,
    *,
    PAD_ID: int,
    **_launch: object,
) -> None:
    """Write the cache slot of every input row; unused rows and dummy requests get `PAD_ID`."""
    slots = idx_mapping.numpy()
    starts = query_start_loc.numpy()[: len(slots) + 1]
    begin, end = int(starts[0]), int(starts[-1])
    row_slots = np.repeat(slots, np.diff(starts))
    is_real = row_slots >= 0
    row_slots = np.where(is_real, row_slots, 0)
    positions = pos.numpy()[begin:end]
    mappings, enabled = slot_mappings.numpy(), slot_mapping_enabled.numpy()
    groups = zip(block_table_ptrs.tolist(), block_table_strides.tolist(), block_sizes.tolist(), strict=True)
    for group, (address, width, block_size) in enumerate(groups):
        mapping = mappings[group]
        mapping[end:max_num_tokens] = PAD_ID
        if not enabled[group] or not is_real.any():
            mapping[begin:end] = PAD_ID
            continue
        table = _table(address, int(slots.max()) + 1, width)
        block, offset = np.divmod(positions, block_size)
        block = np.where(is_real, block, 0)
        mapping[begin:end] = np.where(is_real, table[row_slots, block] * block_size + offset, PAD_ID)


def apply_write(
    output: Tensor,
    output_stride: int | Tensor,
    write_indices: Tensor,
    write_starts: Tensor,
    write_contents: Tensor,
    write_cu_lens: Tensor,
    write_group_ids: Tensor | None,
    *,
    MULTI_GROUP: bool,
    **_launch: object,
) -> None:
    """Apply staged writes: each puts a piece of `write_contents` into one row of a buffer."""
    indices, starts, ends = write_indices.numpy(), write_starts.numpy(), write_cu_lens.numpy()
    contents = write_contents.numpy()
    first = 0
    for write, (row, start, last) in enumerate(zip(indices, starts, ends, strict=True)):
        piece = contents[first:last]
        if MULTI_GROUP:
            assert isinstance(output_stride, Tensor)
            assert write_group_ids is not None
            group = int(write_group_ids[write])
            target = _table(int(output[group]), int(row) + 1, int(output_stride[group]))[row]
        else:
            target = output.numpy()[row : row + 1].reshape(-1)
        target[start : start + len(piece)] = piece
        first = last


def _table(address: int, rows: int, width: int) -> np.ndarray:
    """Return the int32 array [rows, width] that lies at `address`, without a copy."""
    memory = (ctypes.c_int32 * (rows * width)).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(rows, width)


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _GATHER: gather_block_tables,
    _SLOTS: compute_slot_mappings,
    _WRITE: apply_write,
}
