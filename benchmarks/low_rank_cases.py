"""The drafter LoRA on `o_proj`: its own cost, and what it adds to the projection it belongs to."""

from collections.abc import Iterator

import torch
from torch.nn.functional import linear

from benchmarks.cases import Case, input_sets, relative_error
from nemotron_diffusion_kernels.low_rank import expand, shrink
from nemotron_diffusion_plugin.serving.operators import Operators, TorchOperators
from nemotron_diffusion_plugin.serving.triton_operators import TritonOperators

TORCH, TRITON = TorchOperators(), TritonOperators()


def low_rank_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield one block and eight of the published 8B shape, alone and with the projection."""
    shapes = [(3, 64, 16, 80)] if small else [(32, 4096, 128, 4096), (256, 4096, 128, 4096)]
    for rows, depth, rank, width in shapes:
        yield _alone(rows, depth, rank, width, device)
        yield _with_projection(rows, depth, rank, width, device)


def _inputs(
    rows: int, depth: int, rank: int, width: int, device: torch.device, with_weight: bool
) -> list[torch.Tensor]:
    """x, A, B, y and, with the projection, its weight with A below it."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(torch.bfloat16)

    a, b = random(rank, depth) / depth**0.5, random(width, rank) / rank**0.5
    weight = [torch.cat([random(width, depth) / depth**0.5, a])] if with_weight else []
    return [random(rows, depth), a, b, random(rows, width), *weight]


def _add(
    operators: Operators,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    y: torch.Tensor,
    flags: torch.Tensor,
) -> None:
    """Add B(A x) to y where `flags`, `[N, 1]` of its dtype, is 1, as a server does."""
    operators.expand(y, operators.shrink(x, a, flags), b, flags)


def _alone(rows: int, depth: int, rank: int, width: int, device: torch.device) -> Case:
    bytes_moved = 2 * (rank * (depth + width) + rows * (depth + 2 * width))
    count = input_sets(bytes_moved, small=device.type == "cpu")
    sets = [_inputs(rows, depth, rank, width, device, with_weight=False) for _ in range(count)]
    flags = torch.ones(rows, 1, dtype=torch.bfloat16, device=device)

    def error() -> float:
        x, a, b, y = sets[0]
        chosen = torch.arange(rows, device=device) % 3 != 1
        x, y = (torch.where(chosen[:, None], part, torch.nan) for part in (x, y))
        result, wanted = y.clone(), y.double()
        _add(TRITON, x, a, b, result, chosen[:, None].to(y.dtype))
        _add(TORCH, x.double(), a.double(), b.double(), wanted, flags.double())
        if not result[~chosen].isnan().all():
            return torch.nan
        return relative_error(result[chosen], wanted[chosen])

    return Case(
        "low_rank",
        f"{rows} rows, {depth} to {rank} to {width}",
        bytes_moved,
        [lambda one=one: _add(TRITON, *one, flags) for one in sets],
        error,
        tolerance=1e-2,
        others={"torch": lambda: [lambda one=one: _add(TORCH, *one, flags) for one in sets]},
    )


def _with_projection(rows: int, depth: int, rank: int, width: int, device: torch.device) -> Case:
    bytes_moved = 2 * (depth * (width + rank) + rank * width + rows * (depth + 2 * width))
    count = input_sets(bytes_moved, small=device.type == "cpu")
    sets = [_inputs(rows, depth, rank, width, device, with_weight=True) for _ in range(count)]
    flags = torch.ones(rows, dtype=torch.bool, device=device)

    def followed(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = linear(x, weight[:width])
        expand(y, shrink(x, a, flags), b, flags)
        return y

    def widened(x: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        both = linear(x, weight)  # [N, H + r]: y and A x out of one product
        expand(both[:, :width], both[:, width:], b, flags)
        return both[:, :width]

    def error() -> float:
        x, a, b, _, weight = (part.double() for part in sets[0])
        wanted = linear(x, weight[:width]) + linear(linear(x, a), b)
        results = (followed(*sets[0][:3], sets[0][4]), widened(sets[0][0], sets[0][2], sets[0][4]))
        return max(relative_error(result, wanted) for result in results)

    return Case(
        "low_rank",
        f"{rows} rows, o_proj {depth} to {width}, then shrink and expand",
        bytes_moved,
        [lambda one=one: followed(*one[:3], one[4]) for one in sets],
        error,
        tolerance=1e-2,
        others={
            "A below o_proj's weight, then expand": lambda: [
                lambda one=one: widened(one[0], one[2], one[4]) for one in sets
            ],
            "o_proj alone": lambda: [lambda one=one: linear(one[0], one[4][:width]) for one in sets],
        },
    )
