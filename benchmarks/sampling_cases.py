"""Drawn picks, picks over a sharded vocabulary and rejection sampling beside their torch references."""

from collections.abc import Iterator

import torch

from benchmarks.cases import Case, compiled, input_sets, relative_error, share_of_wrong
from nemotron_diffusion_kernels.accept_sampled import BlockLogits, accept_sampled
from nemotron_diffusion_kernels.accept_sampled.reference import accept_sampled_reference
from nemotron_diffusion_kernels.noise import RowNoise
from nemotron_diffusion_kernels.pick import Sampling, merge_shards, pick, pick_shard
from nemotron_diffusion_kernels.pick.reference import pick_reference

MASK = 100
SHARDS = 8


def drawn_pick_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield draws for one block and for eight."""
    for rows, vocabulary in [(3, 5000)] if small else [(32, 131072), (256, 131072)]:
        yield _drawn_pick(rows, vocabulary, device)


def _logits(rows: int, vocabulary: int, device: torch.device, spread: float = 4.0) -> torch.Tensor:
    return (torch.randn(rows, vocabulary, device=device) * spread).to(torch.bfloat16)


def _noise(rows: int, device: torch.device, step: int = 0) -> RowNoise:
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), device=device)
    positions = torch.arange(rows, device=device)
    return RowNoise(seeds, positions, torch.full_like(positions, step))


def _drawn_pick(rows: int, vocabulary: int, device: torch.device) -> Case:
    bytes_moved = rows * vocabulary * 2
    sampling = Sampling(torch.full((rows,), 0.8, device=device), _noise(rows, device))
    sets = [
        _logits(rows, vocabulary, device) for _ in range(input_sets(bytes_moved, small=device.type == "cpu"))
    ]

    def error() -> float:
        result = pick(sets[0], MASK, sampling=sampling, backend="triton")
        wanted = pick_reference(sets[0], MASK, sampling=sampling, compute_dtype=torch.float64)
        wrong = share_of_wrong([result.tokens], [wanted.tokens])
        return max(wrong, relative_error(result.confidence, wanted.confidence))

    return Case(
        "pick_drawn",
        f"{rows} rows of {vocabulary}, bfloat16",
        bytes_moved,
        [lambda one=one: pick(one, MASK, sampling=sampling, backend="triton") for one in sets],
        error,
        tolerance=1e-5,
        others={
            "torch": lambda: [lambda one=one: pick_reference(one, MASK, False, sampling) for one in sets],
            "torch.compile": lambda: compiled(pick_reference, [(one, MASK, False, sampling) for one in sets]),
        },
    )


def shard_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield what one of eight devices does for one block, the all-gather left out."""
    rows, vocabulary = (2, 4000) if small else (32, 131072)
    width = vocabulary // SHARDS
    bytes_moved = rows * width * 2
    sets = [_logits(rows, width, device) for _ in range(input_sets(bytes_moved, small=device.type == "cpu"))]

    def error() -> float:
        whole = _logits(rows, vocabulary, device)
        partials = [
            pick_shard(whole[:, start : start + width], MASK, start, with_second=True, backend="triton")
            for start in range(0, vocabulary, width)
        ]
        result = merge_shards(torch.stack(partials), with_second=True)
        wanted = pick_reference(whole, MASK, with_second=True, compute_dtype=torch.float64)
        wrong = share_of_wrong([result.tokens, result.second_tokens], [wanted.tokens, wanted.second_tokens])
        return max(wrong, relative_error(result.confidence, wanted.confidence))

    def picked(one: torch.Tensor) -> object:
        return merge_shards(pick_shard(one, MASK, 0, backend="triton")[None].expand(SHARDS, -1, -1))

    yield Case(
        "pick_shard",
        f"{rows} rows, {width} of {vocabulary} ids, and the merge of {SHARDS}",
        bytes_moved,
        [lambda one=one: picked(one) for one in sets],
        error,
        tolerance=1e-5,
        others={
            "without the merge": lambda: [
                lambda one=one: pick_shard(one, MASK, 0, backend="triton") for one in sets
            ]
        },
    )


def accept_sampled_cases(small: bool, device: torch.device) -> Iterator[Case]:
    """Yield one and eight verified blocks of 32."""
    for requests, width, vocabulary in [(2, 2, 3000)] if small else [(1, 31, 131072), (8, 31, 131072)]:
        yield _accept_sampled(requests, width, vocabulary, device)


def _accept_sampled(requests: int, width: int, vocabulary: int, device: torch.device) -> Case:
    count = torch.full((requests,), width, device=device)
    temperature = torch.full((requests,), 0.8, device=device)
    noise = _noise(requests, device, step=1)
    lengths = torch.arange(requests, device=device) * 1000

    def arguments() -> tuple[object, ...]:
        verify = _logits(requests * (width + 1), vocabulary, device)
        rows = verify.view(requests, width + 1, vocabulary)[:, :-1].reshape(-1, vocabulary)
        draft = rows + _logits(rows.shape[0], vocabulary, device, spread=0.3)  # most drafts are accepted
        drafts = pick(
            draft,
            MASK,
            sampling=Sampling(temperature.repeat_interleave(width), _noise(rows.shape[0], device)),
        )
        starts = torch.arange(requests, device=device)
        return (
            drafts.tokens.view(requests, width),
            count,
            lengths,
            BlockLogits(verify, starts * (width + 1)),
            temperature,
            noise.seeds,
            noise.steps,
            BlockLogits(draft, starts * width),
            temperature,
            MASK,
        )

    bytes_moved = requests * (2 * width + 1 + 2) * vocabulary * 2
    sets = [arguments() for _ in range(input_sets(bytes_moved, small=device.type == "cpu"))]

    def run(one: tuple[object, ...]) -> object:
        return accept_sampled(
            *one[:7], draft=one[7], draft_temperature=one[8], mask_token_id=one[9], backend="triton"
        )

    return Case(
        "accept_sampled",
        f"{requests} rows of {width} drafts, {vocabulary} ids",
        bytes_moved,
        [lambda one=one: run(one) for one in sets],
        lambda: share_of_wrong(list(run(sets[0])), list(accept_sampled_reference(*sets[0]))),
        tolerance=0.15,  # float32 beside float64: in one request of eight a coin may fall differently
        others={
            "torch": lambda: [lambda one=one: accept_sampled_reference(*one) for one in sets[:3]],
            "torch.compile": lambda: compiled(accept_sampled_reference, sets[:3]),
        },
    )
