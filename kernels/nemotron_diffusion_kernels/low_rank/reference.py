"""The low-rank addition in plain torch."""

import torch


def add_low_rank_reference(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rows: torch.Tensor | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> None:
    """Change y `[N, H]`, with x `[N, D]`, A `[r, D]` and B `[H, r]`, in the rows n whose flag is not 0:

        y_n <- y_n + scale B round(A x_n)

    with products and sums in `compute_dtype`, and `round` to the type of B, which float64 leaves out.
    """
    expand_reference(y, shrink_reference(x, a, rows, compute_dtype), b, scale, rows, compute_dtype)


def shrink_reference(
    x: torch.Tensor,
    a: torch.Tensor,
    rows: torch.Tensor | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return A x_n in `compute_dtype` `[N, r]`, 0 in rows whose flag is 0."""
    low = x.to(compute_dtype) @ a.to(compute_dtype).T
    return low if rows is None else torch.where((rows != 0)[:, None], low, 0.0)


def expand_reference(
    y: torch.Tensor,
    low: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rows: torch.Tensor | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> None:
    """Change the rows of y whose flag is not 0 by scale B round(low)."""
    rounded = low if compute_dtype == torch.float64 else low.to(b.dtype)
    added = (y.to(compute_dtype) + scale * (rounded.to(compute_dtype) @ b.to(compute_dtype).T)).to(y.dtype)
    y.copy_(added if rows is None else torch.where((rows != 0)[:, None], added, y))
