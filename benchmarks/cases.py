"""What one operator is measured on: inputs, the kernel, what it is compared with, and its check."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmarks.timing import Call


@dataclass
class Case:
    """One operator on one shape.

    Attributes:
        operator: its name.
        shape: what it runs on, for the table.
        bytes_moved: the fewest bytes one call must move.
        calls: the kernel, once per input set.
        error: runs the kernel on the first input set, over poisoned outputs, and returns its relative error
            against a float64 reference, or the share of wrong values where the result is exact.
        tolerance: the largest error.
        others: by name, a function that prepares the same work for another implementation.
    """

    operator: str
    shape: str
    bytes_moved: int
    calls: list[Call]
    error: Callable[[], float]
    tolerance: float
    others: dict[str, Callable[[], list[Call]]] = field(default_factory=dict)


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Return |result - reference| / |reference| in float64; NaN stays NaN."""
    reference = reference.double()
    return float((result.double() - reference).norm() / reference.norm())


def share_of_wrong(results: list[torch.Tensor], references: list[torch.Tensor]) -> float:
    """Return which share of all values differs."""
    wrong = sum(int((one != other).sum()) for one, other in zip(results, references, strict=True))
    return wrong / sum(one.numel() for one in references)


def input_sets(bytes_each: int, small: bool) -> int:
    """Return how many input sets hold several times the last cache of a large GPU together."""
    return 2 if small else max(3, min(64, -(-(512 << 20) // bytes_each)))


def compiled(function: Callable[..., object], sets: list[tuple[object, ...]]) -> list[Call]:
    """Return calls of `function` compiled by torch.compile, one per set of arguments."""
    require_gpu()
    fast = torch.compile(function, dynamic=False)
    return [lambda arguments=arguments: fast(*arguments) for arguments in sets]


def require_gpu() -> None:
    """Raise RuntimeError where there is no GPU: some alternatives say nothing, or do not run, on a CPU."""
    if not torch.cuda.is_available():
        raise RuntimeError("measured on a GPU only")
