"""Pick, commit and accept beside the rules in plain torch, as they are and compiled."""

import copy
from collections.abc import Iterator

import torch

from benchmarks.cases import Case, compiled, input_sets, relative_error, share_of_wrong
from nemotron_diffusion_plugin.options import CommitRule
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.serving.triton_operators import TritonOperators

MASK = 100
TORCH, TRITON = TorchOperators(), TritonOperators()


def pick_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield one block, eight blocks and a float32 buffer of the published vocabulary."""
    if small:
        yield _pick("pick", 3, 5000, torch.bfloat16, device)
        return
    for rows, dtype in (
        (1, torch.bfloat16),
        (32, torch.bfloat16),
        (256, torch.bfloat16),
        (32, torch.float32),
    ):
        yield _pick("pick", rows, 131072, dtype, device)


def drawn_pick_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield draws for one block and for eight."""
    for rows, vocabulary in [(3, 5000)] if small else [(32, 131072), (256, 131072)]:
        position = torch.arange(rows, device=device)
        sampling = BlockSampling(
            torch.full((rows,), 0.8, device=device),
            torch.randint(-(2**63), 2**63 - 1, (rows,), device=device),
            position,
            torch.zeros_like(position),
        )
        yield _pick("pick_drawn", rows, vocabulary, torch.bfloat16, device, sampling)


def _pick(
    name: str,
    rows: int,
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
    sampling: BlockSampling | None = None,
) -> Case:
    bytes_moved = rows * vocabulary * dtype.itemsize
    sets = [
        (torch.randn(rows, vocabulary, device=device) * 4).to(dtype)
        for _ in range(input_sets(bytes_moved, small=device.type == "cpu"))
    ]

    def error() -> float:
        tokens, confidence = TRITON.pick(sets[0], MASK, sampling)
        wanted, _ = TORCH.pick(sets[0], MASK, sampling)
        exact = sets[0].double().softmax(dim=1).gather(1, wanted[:, None])[:, 0]
        return max(share_of_wrong([tokens], [wanted]), relative_error(confidence, exact))

    return Case(
        name,
        f"{rows} rows of {vocabulary}, {str(dtype).removeprefix('torch.')}",
        bytes_moved,
        [lambda logits=logits: TRITON.pick(logits, MASK, sampling) for logits in sets],
        error,
        tolerance=1e-5,
        others={
            "torch": lambda: [lambda logits=logits: TORCH.pick(logits, MASK, sampling) for logits in sets],
            "torch.compile": lambda: compiled(TORCH.pick, [(logits, MASK, sampling) for logits in sets]),
        },
    )


def commit_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield a batch of 64 blocks, all rules in it."""
    yield _commit(*((3, 8) if small else (64, 32)), device)


def _commit(rows: int, block_size: int, device: torch.device) -> Case:
    def arguments() -> tuple[object, ...]:
        count = torch.full((rows,), block_size, device=device)
        block = BlockState.start(torch.randint(0, 1000, (rows,), device=device), count, block_size, MASK)
        block.commit(
            torch.randint(0, 1000, (rows, block_size), device=device),
            torch.rand(rows, block_size, device=device) < 0.3,
        )
        rules = CommitRules(
            torch.arange(rows, device=device) % len(CommitRule),
            torch.full((rows,), 0.9, device=device),
            torch.zeros_like(count),
            torch.full_like(count, 2),
        )
        return (
            block,
            torch.randint(0, 1000, (rows, block_size), device=device),
            torch.rand(rows, block_size, device=device),
            rules,
            torch.tensor([[2, 11]], device=device).repeat(rows, 1),
        )

    sets = [arguments() for _ in range(2 if device.type == "cpu" else 16)]

    def after(operators: TorchOperators | TritonOperators) -> list[torch.Tensor]:
        block, *rest = copy.deepcopy(sets[0])
        return [operators.commit(block, *rest), block.tokens, block.masked, block.step]

    # timed on one state: the work does not depend on how many masks are left
    return Case(
        "commit",
        f"{rows} blocks of {block_size}",
        rows * block_size * (8 + 8 + 8 + 4 + 2),
        [lambda one=one: TRITON.commit(*one) for one in sets],
        lambda: share_of_wrong(after(TRITON), after(TORCH)),
        tolerance=0.0,
        others={
            "torch": lambda: [lambda one=one: TORCH.commit(*one) for one in sets],
            "torch.compile": lambda: compiled(TORCH.commit, sets),
        },
    )


def accept_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield a batch of 64 verified blocks of 32."""
    yield _accept(*((3, 7) if small else (64, 31)), device)


def _accept(rows: int, width: int, device: torch.device) -> Case:
    def arguments() -> tuple[torch.Tensor, ...]:
        verified = torch.randint(0, 1000, (rows, width + 1), device=device)
        agrees = torch.rand(rows, width, device=device) < 0.9
        return (
            torch.where(agrees, verified[:, :-1], -5),
            verified,
            torch.randint(-1, width + 1, (rows,), device=device),
        )

    sets = [arguments() for _ in range(2 if device.type == "cpu" else 16)]

    return Case(
        "accept",
        f"{rows} rows of {width} drafts",
        rows * (2 * width + 2) * 8,
        [lambda one=one: TRITON.accept(*one) for one in sets],
        lambda: share_of_wrong([TRITON.accept(*sets[0])], [TORCH.accept(*sets[0])]),
        tolerance=0.0,
        others={
            "torch": lambda: [lambda one=one: TORCH.accept(*one) for one in sets],
            "torch.compile": lambda: compiled(TORCH.accept, sets),
        },
    )
