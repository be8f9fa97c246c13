"""The low-rank addition to a projection for the rows of draft requests: arguments, checks, choice of backend."""

import torch

from ..backends import resolve
from ..checks import FLAGS, FLOATS, INTEGERS, check_rows_contiguous, check_tensor

MAX_RANK = 256


def add_low_rank(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rows: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Add scale * B(A x) to the chosen rows of y, in place (docs/model.md, 1.5).

    One launch. Products are summed in float32; A x is rounded to the type of B between the two. All other rows of
    y keep every bit, and the rows of x beside them are not looked at, so both may hold anything. A row's result
    does not depend on which other rows are chosen. Nothing is read on the host.

    Args:
        y: float32, bfloat16 or float16 `[N, H]`, any stride between rows: the projection's output.
        x: `[N, D]`, its input; like `a` and `b` of the dtype of y.
        a: `[r, D]`, r 1 to 256.
        b: `[H, r]`.
        scale: alpha / r of the adapter; its sign and size are free.
        rows: flags `[N]` of any type, not 0 where a row is of a draft; None for all rows. See `request_rows`.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the backend asked for cannot run here.
    """
    name = "add_low_rank"
    rank = _check_a(name, x, a, rows)
    check_tensor(name, "y", y, (x.shape[0], None), (x.dtype,), x.device)
    check_tensor(name, "b", b, (y.shape[1], rank), (x.dtype,), x.device)
    for label, tensor in {"y": y, "b": b}.items():
        check_rows_contiguous(name, label, tensor)
    if resolve(name, backend, x.device) == "torch":
        from .reference import add_low_rank_reference

        add_low_rank_reference(y, x, a, b, scale, rows)
        return
    from .triton import add_low_rank_triton

    add_low_rank_triton(y, x, a, b, scale, rows)


def shrink(
    x: torch.Tensor, a: torch.Tensor, rows: torch.Tensor | None = None, *, backend: str | None = None
) -> torch.Tensor:
    """Return A x of the chosen rows, float32 `[N, r]`, and 0 in the others.

    The first step of `add_low_rank` for its own sake: under tensor parallelism x and A hold one rank's columns, and
    the sum of the results over the ranks is A x. Arguments and errors are those of `add_low_rank`.
    """
    name = "shrink"
    _check_a(name, x, a, rows)
    if resolve(name, backend, x.device) == "torch":
        from .reference import shrink_reference

        return shrink_reference(x, a, rows)
    from .triton import shrink_triton

    return shrink_triton(x, a, rows)


def expand(
    y: torch.Tensor,
    low: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rows: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Add scale * B low to the chosen rows of y, in place; all other rows keep every bit.

    The second step of `add_low_rank`. `low` `[N, r]` is float32, bfloat16 or float16, with any stride between rows,
    so it may be the last columns of a wider product; it is rounded to the type of B. The other arguments and the
    errors are those of `add_low_rank`.
    """
    name = "expand"
    check_tensor(name, "y", y, (None, None), FLOATS, y.device)
    check_tensor(name, "low", low, (y.shape[0], None), FLOATS, y.device)
    _check_rank(name, low.shape[1])
    check_tensor(name, "b", b, (y.shape[1], low.shape[1]), (y.dtype,), y.device)
    for label, tensor in {"y": y, "low": low, "b": b}.items():
        check_rows_contiguous(name, label, tensor)
    _check_flags(name, rows, y)
    if resolve(name, backend, y.device) == "torch":
        from .reference import expand_reference

        expand_reference(y, low, b, scale, rows)
        return
    from .triton import expand_triton

    expand_triton(y, low, b, scale, rows)


def request_rows(is_draft: torch.Tensor, query_start_loc: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return the flags `[num_rows]` of rows from those of requests, once per forward; plain torch, no host sync.

    Args:
        is_draft: bool or integer `[R]`.
        query_start_loc: int32 or int64 `[R + 1]`, where each request's rows start; rows past the last are padding
            and get False. Requests may be empty.
        num_rows: of the packed batch.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    name, device = "request_rows", is_draft.device
    check_tensor(name, "is_draft", is_draft, (None,), FLAGS, device)
    check_tensor(name, "query_start_loc", query_start_loc, (is_draft.shape[0] + 1,), INTEGERS, device)
    row = torch.arange(num_rows, device=device, dtype=query_start_loc.dtype)
    request = torch.searchsorted(query_start_loc, row, right=True) - 1
    flags = torch.nn.functional.pad(is_draft != 0, (0, 1))
    return flags[request] & (row >= query_start_loc[0])


def _check_a(name: str, x: torch.Tensor, a: torch.Tensor, rows: torch.Tensor | None) -> int:
    check_tensor(name, "x", x, (None, None), FLOATS, x.device)
    check_tensor(name, "a", a, (None, x.shape[1]), (x.dtype,), x.device)
    _check_rank(name, a.shape[0])
    for label, tensor in {"x": x, "a": a}.items():
        check_rows_contiguous(name, label, tensor)
    _check_flags(name, rows, x)
    return a.shape[0]


def _check_rank(name: str, rank: int) -> None:
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"{name}: the rank is {rank}, expected 1 to {MAX_RANK}")


def _check_flags(name: str, rows: torch.Tensor | None, like: torch.Tensor) -> None:
    if rows is not None:
        check_tensor(name, "rows", rows, (like.shape[0],), (*FLAGS, *FLOATS), like.device)
        check_rows_contiguous(name, "rows", rows)
