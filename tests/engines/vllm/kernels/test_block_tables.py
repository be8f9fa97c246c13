"""Block tables and cache slots equal those of the interpreted kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engines.vllm.kernels.support import LENGTH, SLOTS, Batch, kernels

TABLES = "vllm.v1.worker.gpu.block_table."


class Tables:
    """Block tables of two cache groups at fixed addresses."""

    def __init__(self, random: np.random.Generator) -> None:
        self.block_sizes = torch.tensor([16, 32], dtype=torch.int32)
        widths = (LENGTH // 16 + 1, LENGTH // 32 + 1)
        self.tables = [
            torch.from_numpy(random.integers(0, 1000, (SLOTS, width)).astype(np.int32)) for width in widths
        ]
        self.strides = torch.tensor(widths)
        self.counts = torch.from_numpy(
            np.stack([random.integers(0, width + 1, SLOTS) for width in widths]).astype(np.int32)
        )

    @staticmethod
    def addresses(tables: list[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([table.data_ptr() for table in tables], dtype=torch.uint64)


def test_gather_block_tables(batch: Batch) -> None:
    from triton_on_cpu.kernels.interpreted import original

    tables = Tables(batch.random)
    requests = len(batch.slots)
    outcomes = []
    windows: tuple[torch.Tensor, ...] = ()
    no_windows: dict[str, bool] = {}
    if "MASK_SLIDING_WINDOW" in original(TABLES + "_gather_block_tables_kernel").arg_names:  # from 0.33
        windows = (torch.from_numpy(batch.computed), torch.zeros(2, dtype=torch.int32), tables.block_sizes)
        no_windows = {"MASK_SLIDING_WINDOW": False}
    for kernel in kernels(TABLES + "_gather_block_tables_kernel"):
        targets = [torch.full_like(table, -7) for table in tables.tables]
        kernel[(2, requests)](
            *(torch.from_numpy(batch.slots), Tables.addresses(tables.tables), Tables.addresses(targets)),
            *(tables.strides, tables.counts, tables.counts.stride(0), requests, *windows),
            **no_windows,
            BLOCK_SIZE=64,
        )
        outcomes.append(targets)
    for interpreted, replaced in zip(*outcomes, strict=True):
        assert torch.equal(interpreted, replaced)


@pytest.mark.parametrize("dummies", ["none", "one", "all"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_compute_slot_mappings(batch: Batch, dummies: str, ranks: int) -> None:
    tables = Tables(batch.random)
    slots, requests = batch.slots.copy(), len(batch.slots)
    if dummies != "none":
        slots[: 1 if dummies == "one" else None] = -1
    positions = torch.from_numpy(batch.random.integers(0, LENGTH, batch.rows))
    outcomes = []
    for kernel in kernels(TABLES + "_compute_slot_mappings_kernel"):
        mappings = torch.full((2, 300), -7)
        kernel[(2, requests + 1)](
            *(300, torch.from_numpy(slots), torch.from_numpy(batch.query_start), positions),
            *(Tables.addresses(tables.tables), tables.strides, tables.block_sizes),
            *(torch.tensor([True, bool(batch.rows % 2)]), torch.tensor([True, False]), mappings, 300, 0),
            CP_SIZE=ranks,
            CP_INTERLEAVE=1,
            PAD_ID=-1,
            TRITON_BLOCK_SIZE=64,
        )
        outcomes.append(mappings)
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_apply_write(batch: Batch, dtype: torch.dtype) -> None:
    lengths = batch.random.integers(1, 9, 12)
    ends = torch.from_numpy(np.cumsum(lengths).astype(np.int32))
    rows = torch.from_numpy(batch.random.integers(0, SLOTS, 12).astype(np.int32))
    starts = torch.from_numpy(batch.random.integers(0, 31, 12).astype(np.int32))
    contents = torch.from_numpy(batch.random.integers(0, 1000, lengths.sum())).to(dtype)
    outcomes = []
    for kernel in kernels("vllm.v1.worker.gpu.buffer_utils._apply_write_kernel"):
        buffer = torch.zeros(SLOTS, 40, dtype=dtype)
        arguments = (buffer, buffer.stride(0), rows, starts, contents, ends, None)
        kernel[(12,)](*arguments, BLOCK_SIZE=16, MULTI_GROUP=False)
        outcomes.append(buffer)
    assert torch.equal(*outcomes)


def test_apply_write_to_several_tables(batch: Batch) -> None:
    outcomes = []
    for kernel in kernels("vllm.v1.worker.gpu.buffer_utils._apply_write_kernel"):
        targets = [torch.zeros(SLOTS, 20, dtype=torch.int32), torch.zeros(SLOTS, 10, dtype=torch.int32)]
        kernel[(3,)](
            *(Tables.addresses(targets), torch.tensor([20, 10])),
            *(torch.tensor([2, 0, 5], dtype=torch.int32), torch.tensor([0, 4, 3], dtype=torch.int32)),
            *(torch.arange(9, dtype=torch.int32), torch.tensor([2, 5, 9], dtype=torch.int32)),
            torch.tensor([0, 1, 0], dtype=torch.int32),
            BLOCK_SIZE=16,
            MULTI_GROUP=True,
        )
        outcomes.append(torch.cat([target.flatten() for target in targets]))
    assert torch.equal(*outcomes)
