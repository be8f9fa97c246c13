"""The drafter LoRA on `o_proj`: its own cost, and what it adds to the projection it belongs to."""

from collections.abc import Iterator

import torch
from torch.nn.functional import linear

from benchmarks.cases import Case, input_sets, relative_error
from nemotron_diffusion_kernels.low_rank import add_low_rank, expand, shrink
from nemotron_diffusion_kernels.low_rank.reference import add_low_rank_reference

SCALE = 4.0


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


def _alone(rows: int, depth: int, rank: int, width: int, device: torch.device) -> Case:
    bytes_moved = 2 * (rank * (depth + width) + rows * (depth + 2 * width))
    count = input_sets(bytes_moved, small=device.type == "cpu")
    sets = [_inputs(rows, depth, rank, width, device, with_weight=False) for _ in range(count)]
    flags = torch.ones(rows, dtype=torch.bool, device=device)

    def error() -> float:
        x, a, b, y = sets[0]
        chosen = torch.arange(rows, device=device) % 3 != 1
        x, y = (torch.where(chosen[:, None], part, torch.nan) for part in (x, y))
        result, wanted = y.clone(), y.double()
        add_low_rank(result, x, a, b, SCALE, chosen, backend="triton")
        add_low_rank_reference(wanted, x.double(), a.double(), b.double(), SCALE, chosen, torch.float64)
        if not result[~chosen].isnan().all():
            return torch.nan
        return relative_error(result[chosen], wanted[chosen])

    def in_two_steps(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> None:
        expand(y, shrink(x, a, flags, backend="triton"), b, SCALE, flags, backend="triton")

    def plain(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> None:
        y.addcmul_(linear(linear(x, a), b), flags[:, None].to(y.dtype), value=SCALE)

    return Case(
        "low_rank",
        f"{rows} rows, {depth} to {rank} to {width}",
        bytes_moved,
        [lambda one=one: add_low_rank(one[3], *one[:3], SCALE, flags, backend="triton") for one in sets],
        error,
        tolerance=1e-2,
        others={
            "shrink and expand": lambda: [lambda one=one: in_two_steps(*one) for one in sets],
            "torch": lambda: [lambda one=one: plain(*one) for one in sets],
        },
    )


def _with_projection(rows: int, depth: int, rank: int, width: int, device: torch.device) -> Case:
    bytes_moved = 2 * (depth * (width + rank) + rank * width + rows * (depth + 2 * width))
    count = input_sets(bytes_moved, small=device.type == "cpu")
    sets = [_inputs(rows, depth, rank, width, device, with_weight=True) for _ in range(count)]
    flags = torch.ones(rows, dtype=torch.bool, device=device)

    def widened(x: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        both = linear(x, weight)  # [N, H + r]: y and A x out of one product
        expand(both[:, :width], both[:, width:], b, SCALE, flags, backend="triton")
        return both[:, :width]

    def followed(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = linear(x, weight[:width])
        add_low_rank(y, x, a, b, SCALE, flags, backend="triton")
        return y

    def error() -> float:
        x, a, b, _, weight = (part.double() for part in sets[0])
        wanted = linear(x, weight[:width]) + SCALE * linear(linear(x, a), b)
        return relative_error(widened(sets[0][0], sets[0][2], sets[0][4]), wanted)

    return Case(
        "low_rank",
        f"{rows} rows, o_proj {depth} to {width} with A below its weight, then expand",
        bytes_moved,
        [lambda one=one: widened(one[0], one[2], one[4]) for one in sets],
        error,
        tolerance=1e-2,
        others={
            "o_proj, then add_low_rank": lambda: [
                lambda one=one: followed(one[0], one[1], one[2], one[4]) for one in sets
            ],
            "o_proj alone": lambda: [lambda one=one: linear(one[0], one[4][:width]) for one in sets],
        },
    )
