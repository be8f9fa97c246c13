"""The whole recipe of an Eagle3 head: data, training, files, evaluation (``nemotron-diffusion train-eagle3``)."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.outputs import writing
from nemotron_diffusion_plugin.tools.training.base import learning_rate_share, quick_attention
from nemotron_diffusion_plugin.tools.training.conversations import (
    ChatEncoder,
    Conversation,
    draw_conversation,
)
from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import load_head, save_head
from nemotron_diffusion_plugin.tools.training.eagle3.evaluation import (
    DraftScore,
    decode_answers,
    evaluate_head,
    format_table,
)
from nemotron_diffusion_plugin.tools.training.eagle3.head import Eagle3Head, HeadConfig
from nemotron_diffusion_plugin.tools.training.eagle3.objective import Batch, draft_loss, make_batch

POOL_SIZE = 1024
WAITING_BATCHES = 24
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training can vary; the defaults made the bundled head.

    ``steps``: of the optimizer; ``draft_steps``: of each chain in training, after a beginning of ``short_share`` of
    the time with chains of ``short_draft_steps``; ``decay``: of their weights in the loss; ``repeats``: how often a
    batch is learned from.
    """

    steps: int = 650
    draft_steps: int = 7
    short_draft_steps: int = 3
    short_share: float = 0.35
    decay: float = 0.8
    layers: tuple[int, ...] = (1, 3, 5)
    intermediate_size: int = 512
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    matrix_learning_rate: float = 0.06
    vector_learning_rate: float = 6e-3
    tokens_per_batch: int = 3072
    repeats: int = 4


@dataclass(frozen=True, slots=True)
class HeadProgress:
    """The state after a step: the loss, and for each draft step the share of tokens drafted right."""

    step: int
    fraction: float
    loss: float
    right: list[float]


def new_head(model: ReferenceModel, settings: Settings, seed: int) -> Eagle3Head:
    """Return a head for ``model`` that begins with the target's last kept layer, final norm and output matrix."""
    target = model.config
    size = target.hidden_size
    head = Eagle3Head(
        HeadConfig(
            hidden_size=size,
            vocab_size=target.vocab_size,
            intermediate_size=settings.intermediate_size,
            num_attention_heads=settings.num_attention_heads,
            num_key_value_heads=settings.num_key_value_heads,
            head_dim=target.head_dim,
            max_position_embeddings=target.max_position_embeddings,
            layers=settings.layers,
            rms_norm_eps=target.rms_norm_eps,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(std=0.02 * (math.sqrt(0.5) if into_residual else 1.0), generator=generator)
        head.fc.weight[:, -size:] += torch.eye(size)
        head.norm.weight.copy_(model.encoder.norm.weight)
        head.lm_head.weight.copy_(model.diffusion_head.weight)
    return head


def draw_conversations(encoder: ChatEncoder, tokens: int, seed: int) -> Iterator[list[Conversation]]:
    """Yield groups of training conversations forever, of like length together, at most ``tokens`` tokens each."""
    rng = random.Random(seed)
    while True:
        pool = sorted(
            (draw_conversation(rng, encoder) for _ in range(POOL_SIZE)), key=lambda one: len(one.tokens)
        )
        groups: list[list[Conversation]] = [[]]
        for conversation in pool:
            if groups[-1] and len(conversation.tokens) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(conversation)
        rng.shuffle(groups)
        yield from groups


def draw_batches(
    model: ReferenceModel, encoder: ChatEncoder, settings: Settings, seed: int
) -> Iterator[Batch]:
    """Yield batches forever; each comes ``settings.repeats`` times, with others between, but is read only once."""
    rng = random.Random(seed)
    groups = draw_conversations(encoder, settings.tokens_per_batch, seed)
    waiting: list[tuple[Batch, int]] = []
    while True:
        while len(waiting) < WAITING_BATCHES:
            waiting.append((make_batch(model, next(groups), settings.layers), settings.repeats))
        index = rng.randrange(WAITING_BATCHES)
        batch, left = waiting[index]
        if left > 1:
            waiting[index] = (batch, left - 1)
        else:
            del waiting[index]
        yield batch


def train_head(
    model: ReferenceModel,
    encoder: ChatEncoder,
    settings: Settings,
    *,
    seed: int,
    minutes: float | None = None,
    on_step: Callable[[HeadProgress], None] | None = None,
) -> Eagle3Head:
    """Train a head for ``model``, which stays as it is, for ``settings.steps`` steps or ``minutes``.

    Products run in bfloat16, with a copy of the target too; the weights that are learned stay float32.
    """
    head = new_head(model, settings, seed)
    target = copy.deepcopy(model).to(torch.bfloat16).requires_grad_(False)
    working = copy.deepcopy(head).to(torch.bfloat16)
    optimizers = _make_optimizers(head, settings)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    begin, step = time.monotonic(), 0
    with quick_attention():
        for batch in draw_batches(target, encoder, settings, seed):
            spent = (time.monotonic() - begin) / 60.0
            fraction = max(step / settings.steps, spent / minutes if minutes else 0.0)
            if fraction >= 1.0:
                break
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * learning_rate_share(fraction)
            short = fraction < settings.short_share
            length = settings.short_draft_steps if short else settings.draft_steps
            loss, right = draft_loss(working, target, batch, length, settings.decay)
            loss.backward()
            _step(head, working, optimizers)
            step += 1
            if on_step is not None:
                on_step(HeadProgress(step, fraction, loss.item(), right))
    return head.requires_grad_(False)


def _make_optimizers(head: Eagle3Head, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden states, AdamW for the norms and the output matrix."""
    named = list(head.named_parameters())
    inner = [p for name, p in named if p.dim() == 2 and name != "lm_head.weight"]
    outer = [p for name, p in named if p.dim() != 2 or name == "lm_head.weight"]
    return [
        torch.optim.Muon(inner, lr=settings.matrix_learning_rate, weight_decay=WEIGHT_DECAY, momentum=0.95),
        torch.optim.AdamW(outer, lr=settings.vector_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _step(head: Eagle3Head, working: Eagle3Head, optimizers: list[torch.optim.Optimizer]) -> None:
    """Learn from the gradients of the bfloat16 copy and round the weights into it again."""
    for parameter, half in zip(head.parameters(), working.parameters(), strict=True):
        assert half.grad is not None
        parameter.grad, half.grad = half.grad.float(), None
    nn.utils.clip_grad_norm_(head.parameters(), MAX_GRADIENT_NORM)
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        for parameter, half in zip(head.parameters(), working.parameters(), strict=True):
            half.copy_(parameter)


def train_eagle3(
    output: Path,
    target: Path,
    minutes: float | None = None,
    seed: int = 0,
    *,
    settings: Settings | None = None,
    eval_per_category: int = 20,
    on_report: Callable[[str], None] | None = None,
) -> dict[int, dict[str, DraftScore]]:
    """Train a head for the checkpoint ``target`` into the folder ``output`` and return its held-out scores.

    Without ``minutes`` the settings' number of steps decides. ``on_report`` receives lines of text. Returns
    scores[depth][category]; empty for ``eval_per_category`` 0. Raises `CheckpointError` where the target cannot be
    read, `ValueError` where it has too few layers, and `OSError` where ``output`` cannot be written, all before the
    training.
    """
    report, settings = on_report or (lambda line: None), settings or Settings()
    model, encoder = ReferenceModel.from_checkpoint(target), ChatEncoder(target)
    if max(settings.layers) >= model.config.num_hidden_layers:
        raise ValueError(
            f"{target}: got a target of {model.config.num_hidden_layers} layers, expected at least "
            f"{max(settings.layers) + 1}, as the head reads the inputs of layers {', '.join(map(str, settings.layers))}"
        )

    def after_step(progress: HeadProgress) -> None:
        if progress.step % 50 == 0:
            right = " ".join(f"{share:.3f}" for share in progress.right)
            report(f"step {progress.step} {progress.fraction:.3f} loss {progress.loss:.3f} right {right}")

    with writing(output) as made:
        head = train_head(model, encoder, settings, seed=seed, minutes=minutes, on_step=after_step)
        save_head(made.part, head)
    if not eval_per_category:
        return {}
    answers = decode_answers(model, encoder, per_category=eval_per_category, seed=seed)
    scores = evaluate_head(load_head(output), model, answers)
    report(format_table(scores))
    return scores
