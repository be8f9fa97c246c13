"""Checks of an operator's arguments that need no value on the device."""

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)
FLAGS = (torch.bool, torch.uint8, torch.int32, torch.int64)


def check_tensor(
    operator: str,
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
) -> None:
    """Check shape (None: any length), dtype and device of one argument, and that its rows are contiguous.

    Neighbours in the last dimension must be neighbours in memory; other strides are free.

    Raises:
        ValueError: with the operator, the argument, what it got and what it expected.
    """
    got = tuple(tensor.shape)
    fits = len(got) == len(shape) and all(
        want is None or have == want for have, want in zip(got, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{operator}: {name} has shape {got}, expected ({expected})")
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(
            f"{operator}: {name} is {str(tensor.dtype).removeprefix('torch.')}, expected {names}"
        )
    if tensor.device != device:
        raise ValueError(
            f"{operator}: {name} is on {tensor.device}, expected {device} like the other tensors"
        )
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{operator}: {name} has stride {tensor.stride(-1)} in its last dimension, expected 1; "
            "pass a contiguous tensor"
        )
