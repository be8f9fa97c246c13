"""Pick, commit and accept beside their torch references, plain and compiled."""

from collections.abc import Iterator

import torch

from benchmarks.cases import Case, compiled, input_sets, relative_error, share_of_wrong
from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_kernels.accept.reference import accept_reference
from nemotron_diffusion_kernels.commit import Rule, Rules, commit
from nemotron_diffusion_kernels.commit.reference import commit_reference
from nemotron_diffusion_kernels.pick import pick
from nemotron_diffusion_kernels.pick.reference import pick_reference

MASK = 100


def pick_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield one block, eight blocks and a float32 buffer of the published vocabulary."""
    if small:
        yield _pick(3, 5000, torch.bfloat16, device)
        return
    for rows, dtype in (
        (1, torch.bfloat16),
        (32, torch.bfloat16),
        (256, torch.bfloat16),
        (32, torch.float32),
    ):
        yield _pick(rows, 131072, dtype, device)


def _pick(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Case:
    bytes_moved = rows * vocabulary * dtype.itemsize
    sets = [
        (torch.randn(rows, vocabulary, device=device) * 4).to(dtype)
        for _ in range(input_sets(bytes_moved, small=device.type == "cpu"))
    ]

    def error() -> float:
        result = pick(sets[0], MASK, with_second=True, backend="triton")
        wanted = pick_reference(sets[0], MASK, with_second=True, compute_dtype=torch.float64)
        wrong = share_of_wrong([result.tokens, result.second_tokens], [wanted.tokens, wanted.second_tokens])
        return max(
            wrong,
            relative_error(result.confidence, wanted.confidence),
            relative_error(result.second_confidence, wanted.second_confidence),
        )

    return Case(
        "pick",
        f"{rows} rows of {vocabulary}, {str(dtype).removeprefix('torch.')}",
        bytes_moved,
        [lambda logits=logits: pick(logits, MASK, backend="triton") for logits in sets],
        error,
        tolerance=1e-5,
        others={
            "torch": lambda: [lambda logits=logits: pick_reference(logits, MASK) for logits in sets],
            "torch.compile": lambda: compiled(pick_reference, [(logits, MASK) for logits in sets]),
        },
    )


def commit_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield a batch of 64 blocks, all rules in it."""
    yield _commit(*((3, 8) if small else (64, 32)), device)


def _commit(rows: int, block_size: int, device: torch.device) -> Case:
    def arguments() -> tuple[object, ...]:
        masked = torch.rand(rows, block_size, device=device) < 0.7
        count = torch.full((rows,), 5, device=device)
        rules = Rules(
            torch.arange(rows, device=device) % len(Rule),
            torch.full((rows,), 0.9, device=device),
            torch.zeros_like(count),
            torch.full_like(count, 2),
        )
        return (
            torch.randint(0, 1000, (rows, block_size), device=device),
            masked,
            torch.zeros_like(count),
            masked.sum(1),
            torch.randint(0, 1000, (rows, block_size), device=device),
            torch.rand(rows, block_size, device=device),
            rules,
            torch.tensor([[2, 11]], device=device).repeat(rows, 1),
        )

    sets = [arguments() for _ in range(2 if device.type == "cpu" else 16)]

    def error() -> float:
        first, second = ([_copied(value) for value in sets[0]] for _ in range(2))
        results = [commit(*first, backend="triton"), *first[:3]]
        return share_of_wrong(results, [commit_reference(*second), *second[:3]])

    # timed on one state: the work does not depend on how many masks are left
    return Case(
        "commit",
        f"{rows} blocks of {block_size}",
        rows * block_size * (8 + 8 + 8 + 4 + 2),
        [lambda one=one: commit(*one, backend="triton") for one in sets],
        error,
        tolerance=0.0,
        others={
            "torch": lambda: [lambda one=one: commit_reference(*one) for one in sets],
            "torch.compile": lambda: compiled(commit_reference, sets),
        },
    )


def _copied(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) else value


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
            torch.randint(0, 100000, (rows,), device=device),
        )

    sets = [arguments() for _ in range(2 if device.type == "cpu" else 16)]

    def error() -> float:
        return share_of_wrong(list(accept(*sets[0], backend="triton")), list(accept_reference(*sets[0])))

    return Case(
        "accept",
        f"{rows} rows of {width} drafts",
        rows * ((3 * width + 2) * 8 + 5 * 8),
        [lambda one=one: accept(*one, backend="triton") for one in sets],
        error,
        tolerance=0.0,
        others={
            "torch": lambda: [lambda one=one: accept_reference(*one) for one in sets],
            "torch.compile": lambda: compiled(accept_reference, sets),
        },
    )
