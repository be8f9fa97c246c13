"""The training loop of the base model in its three modes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.conversations import (
    ChatEncoder,
    Conversation,
    draw_conversation,
)
from nemotron_diffusion_plugin.tools.training.objective import DIFFUSION_WEIGHT, Batch, losses, make_batch

POOL_SIZE = 2048
MATRIX_LEARNING_RATE = 0.01
VECTOR_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
WARMUP_SHARE = 0.03
FINAL_LEARNING_RATE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a training after a step; ``fraction`` is the share of the whole training that is done."""

    step: int
    fraction: float
    tokens: int
    causal_loss: float
    diffusion_loss: float


def initialize(model: ReferenceModel, seed: int) -> None:
    """Draw the weights: normal with 0.02, the projections into the residual stream scaled by depth."""
    generator = torch.Generator().manual_seed(seed)
    depth_scale = 1.0 / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                scale = depth_scale if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                parameter.normal_(std=0.02 * scale, generator=generator)


def draw_batches(
    encoder: ChatEncoder,
    block_size: int,
    tokens_per_batch: int,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> Iterator[Batch]:
    """Yield batches forever: conversations of like length together, at most ``tokens_per_batch`` tokens."""
    rng = random.Random(seed)
    while True:
        pool = sorted(
            (draw_conversation(rng, encoder, weights) for _ in range(POOL_SIZE)),
            key=lambda c: (sum(end - start for start, end in c.answers) // block_size, len(c.tokens)),
        )
        groups: list[list[Conversation]] = []
        group: list[Conversation] = []
        widest = 0
        for conversation in pool:
            blocks = sum(math.ceil((end - start) / block_size) for start, end in conversation.answers)
            width = max(widest, len(conversation.tokens) + blocks * block_size)
            if group and width * (len(group) + 1) > tokens_per_batch:
                groups.append(group)
                group, width = [], len(conversation.tokens) + blocks * block_size
            group.append(conversation)
            widest = width
        rng.shuffle(groups)
        for group in groups:
            yield make_batch(group, block_size, rng)


def learning_rate_share(fraction: float) -> float:
    """Return the share of the full learning rate: linear warm-up, then a cosine down to a small rest."""
    if fraction < WARMUP_SHARE:
        return fraction / WARMUP_SHARE + 0.01
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (fraction - WARMUP_SHARE) / (1.0 - WARMUP_SHARE))))
    return FINAL_LEARNING_RATE_SHARE + (1.0 - FINAL_LEARNING_RATE_SHARE) * cosine


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for embeddings, head and norms."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or ".layers." not in n]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=WEIGHT_DECAY, momentum=0.95),
        torch.optim.AdamW(others, lr=VECTOR_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def make_replicas(model: ReferenceModel, count: int) -> list[ReferenceModel]:
    """Return ``count`` models with the weights of ``model`` and gradients of their own, ``model`` first."""
    replicas = [model]
    for _ in range(count - 1):
        with torch.device("meta"):
            replica = ReferenceModel(model.config)
        replica.load_state_dict({name: p.data for name, p in model.named_parameters()}, assign=True)
        replicas.append(replica)
    return replicas


def add_gradients(replicas: list[ReferenceModel]) -> None:
    """Average the replicas' gradients into the first one and clear the others."""
    for parameters in zip(*(replica.parameters() for replica in replicas), strict=True):
        total = parameters[0].grad
        assert total is not None
        for other in parameters[1:]:
            assert other.grad is not None
            total += other.grad
            other.grad = None
        total /= len(replicas)


@contextmanager
def quick_attention() -> Iterator[None]:
    """Run attention as plain bfloat16 products: on a CPU that is faster than the fused kernel's backward."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _backward(model: ReferenceModel, batch: Batch) -> tuple[float, float]:
    torch.set_num_threads(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        causal, diffusion = losses(model, batch)
    (causal + DIFFUSION_WEIGHT * diffusion).backward()
    return causal.item(), diffusion.item()


def train_base(
    model: ReferenceModel,
    encoder: ChatEncoder,
    *,
    seed: int,
    steps: int | None,
    minutes: float | None,
    weights: Mapping[str, float] | None = None,
    peak: float = 1.0,
    tokens_per_batch: int = 3072,
    workers: int = 2,
    on_step: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train ``model`` in place for ``steps`` optimizer steps or ``minutes``, whichever ends first.

    ``weights`` replaces the weights of some task categories; ``peak`` scales the learning rates.
    Every step averages one batch from each of ``workers`` threads. The matrix products run in bfloat16, the
    weights stay float32. With ``steps`` alone the result is a function of the seed; with ``minutes`` it also
    depends on the machine's speed. Raises ValueError when neither is given.
    """
    if steps is None and minutes is None:
        raise ValueError("steps and minutes: got neither, expected at least one")
    optimizers = make_optimizers(model)
    full_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    replicas = make_replicas(model, workers)
    batches = draw_batches(encoder, model.config.block_size, tokens_per_batch, seed, weights)
    progress = Progress(0, 0.0, 0, math.inf, math.inf)
    begin = time.monotonic()
    with quick_attention(), ThreadPoolExecutor(workers) as pool:
        while True:
            spent = (time.monotonic() - begin) / 60.0
            fraction = max(progress.step / steps if steps else 0.0, spent / minutes if minutes else 0.0)
            if fraction >= 1.0:
                return progress
            for optimizer, rate in zip(optimizers, full_rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * peak * learning_rate_share(fraction)
            drawn = list(islice(batches, workers))
            results = list(pool.map(_backward, replicas, drawn))
            add_gradients(replicas)
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            tokens = progress.tokens + sum(batch.tokens.numel() for batch in drawn)
            causal, diffusion = (sum(column) / workers for column in zip(*results, strict=True))
            progress = Progress(progress.step + 1, fraction, tokens, causal, diffusion)
            if on_step is not None:
                on_step(progress)
