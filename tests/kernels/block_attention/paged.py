"""Batches for the tests of paged block attention."""

from dataclasses import dataclass

import torch

from benchmarks.attention_reference import block_attention_reference
from nemotron_diffusion_kernels.block_attention import Tiling, block_attention

SMALL = Tiling(rows=16, keys=16, split_length=32, warps=4, stages=2)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


@dataclass
class Batch:
    """The tensors of one call; what no request may read is NaN."""

    query: torch.Tensor
    key_pages: torch.Tensor
    value_pages: torch.Tensor
    page_table: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    is_causal: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(vars(self).values())

    @property
    def rows(self) -> int:
        return int(self.query_start_loc[-1])


def make_batch(
    query_lengths: list[int],
    seq_lengths: list[int],
    is_causal: list[bool],
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 32,
    page_size: int = 16,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    spare_rows: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return a batch with its pages in random order."""
    generator = torch.Generator().manual_seed(seed)
    query_heads, kv_heads = heads
    pages_each = max(1, max(-(-length // page_size) for length in seq_lengths))
    needed = len(seq_lengths) * pages_each
    order = torch.randperm(needed + 3, generator=generator)[:needed].view(-1, pages_each)
    shape = (needed + 3, page_size, kv_heads, head_dim)
    pages = []
    for _ in range(2):
        part = torch.full(shape, torch.nan)
        for request, length in enumerate(seq_lengths):
            token = torch.arange(length)
            content = torch.randn(length, kv_heads, head_dim, generator=generator)
            part[order[request][token // page_size], token % page_size] = content
        pages.append(part.to(cache_dtype or dtype).to(device))
    starts = torch.tensor([0, *torch.tensor(query_lengths).cumsum(0).tolist()], dtype=torch.int32)
    rows = sum(query_lengths) + spare_rows
    query = torch.randn(rows, query_heads, head_dim, generator=generator).to(dtype)
    return Batch(
        query.to(device),
        *pages,
        order.to(torch.int32).to(device),
        starts.to(device),
        torch.tensor(seq_lengths, dtype=torch.int32, device=device),
        torch.tensor(is_causal, device=device),
    )


def attend(batch: Batch, tiling: Tiling | None = SMALL, **options) -> torch.Tensor:
    """The kernel's output, written over NaN."""
    lengths = batch.query_start_loc.diff()
    arguments = {
        "max_query_length": max(1, int(lengths.max())),
        "max_seq_length": int(batch.seq_lens.max()),
        "out": torch.full_like(batch.query, torch.nan),
        **options,
    }
    return block_attention(*batch.tensors, tiling=tiling, **arguments)


def expected(batch: Batch, scale: float | None = None, **options) -> torch.Tensor:
    """The reference in float64 on the CPU."""
    tensors = [tensor.cpu() for tensor in batch.tensors]
    scale = batch.query.shape[2] ** -0.5 if scale is None else scale
    return block_attention_reference(*tensors, scale, **options)


def assert_matches(batch: Batch, result: torch.Tensor, **options) -> None:
    """Every row of a request matches the reference, no other row was written."""
    rows, tolerance = batch.rows, TOLERANCE[batch.query.dtype]
    assert result[rows:].isnan().all()
    wanted = expected(batch, **options)[:rows]
    torch.testing.assert_close(result[:rows].cpu().double(), wanted, rtol=tolerance, atol=tolerance)
