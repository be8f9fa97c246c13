"""The low-rank branch of a projection for the rows of draft requests: arguments and checks.

y += B(A x) (docs/model.md, 1.5) in two steps, so that a sum over the ranks of tensor parallelism, where x and A
hold one rank's columns, fits between them. Products are summed in float32. A row's result does not depend on which
other rows are chosen. Nothing is read on the host.
"""

import torch

from ..backends import check_triton
from ..checks import FLAGS, FLOATS, check_tensor

MAX_RANK = 256


def shrink(x: torch.Tensor, a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return A x of the chosen rows, float32 `[N, r]`, and 0 in the others, which are not looked at. One launch.

    Args:
        x: float32, bfloat16 or float16 `[N, D]`, any stride between rows: the projection's input.
        a: `[r, D]` of the dtype of x, r 1 to 256.
        rows: flags `[N]` of any type, not 0 where a row is of a draft.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the kernel cannot run here.
    """
    name = "shrink"
    check_tensor(name, "x", x, (None, None), FLOATS, x.device)
    check_tensor(name, "a", a, (None, x.shape[1]), (x.dtype,), x.device)
    _check(name, a.shape[0], rows, x)
    from .triton import shrink_triton

    return shrink_triton(x, a, rows)


def expand(y: torch.Tensor, low: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
    """Add B low to the chosen rows of y, in place; all other rows keep every bit. One launch.

    Args:
        y: float32, bfloat16 or float16 `[N, H]`, any stride between rows: the projection's output.
        low: float32, bfloat16 or float16 `[N, r]`, r 1 to 256, any stride between rows; rounded to the dtype of b.
        b: `[H, r]` of the dtype of y.
        rows: flags `[N]` of any type, not 0 where a row is of a draft.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the kernel cannot run here.
    """
    name = "expand"
    check_tensor(name, "y", y, (None, None), FLOATS, y.device)
    check_tensor(name, "low", low, (y.shape[0], None), FLOATS, y.device)
    check_tensor(name, "b", b, (y.shape[1], low.shape[1]), (y.dtype,), y.device)
    _check(name, low.shape[1], rows, y)
    from .triton import expand_triton

    expand_triton(y, low, b, rows)


def _check(name: str, rank: int, rows: torch.Tensor, like: torch.Tensor) -> None:
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"{name}: the rank is {rank}, expected 1 to {MAX_RANK}")
    check_tensor(name, "rows", rows, (like.shape[0],), (*FLAGS, *FLOATS), like.device)
    check_triton(name, like.device.type)
