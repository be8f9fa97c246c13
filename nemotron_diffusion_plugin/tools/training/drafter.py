"""Training the drafter LoRA on the model's own answers, the base weights frozen (docs/model.md, 4)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.nn import functional

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.reference.model import KeysValues, KeyValueCache, ReferenceModel
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.base import learning_rate_share, quick_attention
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.geometry import LORA_ALPHA, LORA_RANK
from nemotron_diffusion_plugin.tools.training.tokenizer import EOS_ID, MASK_ID

LEARNING_RATE = 1e-3
ANSWERS_PER_ROUND = 32
BLOCKS_PER_ANSWER = 6
ROUND_REPEATS = 4
MAX_ANSWER_TOKENS = 128
ACCEPTANCE_TEMPERATURE = 3.0


@dataclass(frozen=True, slots=True)
class DraftProgress:
    """The state after a step: the loss and how many drafts of a block are accepted on average."""

    step: int
    fraction: float
    loss: float
    accepted: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Prompts with their greedy answers, and what the verifier says of them.

    ``tokens``: int64[N, P + A], prompts padded on the left and answers on the right; ``padding``: int64[N], the
    columns on the left that belong to no prompt; ``ends``: the column past each answer's EOS; ``logits``:
    float32[N, P + A, V], causal; ``cache``: the keys and values of all columns.
    """

    tokens: torch.Tensor
    padding: torch.Tensor
    prompt_length: int
    ends: list[int]
    logits: torch.Tensor
    cache: KeyValueCache


@torch.no_grad()
def answer_greedily(
    model: ReferenceModel, prompts: list[list[int]], max_tokens: int = MAX_ANSWER_TOKENS
) -> Answers:
    """Decode ``prompts`` causally and greedily in one batch."""
    length = max(map(len, prompts))
    tokens = torch.tensor([[EOS_ID] * (length - len(prompt)) + prompt for prompt in prompts])
    padding = torch.tensor([length - len(prompt) for prompt in prompts])
    cache = KeyValueCache()
    new = tokens
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_tokens):
        logits, keys_values = _causal(model, new, padding, cache)
        cache.append(keys_values)
        logits[:, -1, MASK_ID] = -torch.inf
        new = torch.where(done, EOS_ID, logits[:, -1].argmax(-1))[:, None]
        tokens = torch.cat([tokens, new], dim=1)
        done |= new[:, 0] == EOS_ID
        if bool(done.all()):
            break
    cache = KeyValueCache()
    logits, keys_values = _causal(model, tokens, padding, cache)
    cache.append(keys_values)
    ends = [_end(row, length) for row in tokens.tolist()]
    return Answers(tokens, padding, length, ends, logits, cache)


def _causal(
    model: ReferenceModel, new: torch.Tensor, padding: torch.Tensor, cache: KeyValueCache
) -> tuple[torch.Tensor, KeysValues]:
    columns = torch.arange(cache.length + new.shape[1])
    rows = columns[cache.length :]
    own = rows[:, None] == columns
    visible = ((columns <= rows[:, None]) & (columns >= padding[:, None, None])) | own
    positions = (rows - padding[:, None]).clamp(min=0)
    result: tuple[torch.Tensor, KeysValues] = model(new, positions, visible, cache=cache)
    return result


def _end(row: list[int], start: int) -> int:
    return row.index(EOS_ID, start) + 1 if EOS_ID in row[start:] else len(row)


def draw_prompts(rng: random.Random, encoder: ChatEncoder) -> Iterator[list[list[int]]]:
    """Yield groups of training-split prompts forever."""
    while True:
        yield [encoder.prompt(tasks.draw(rng, held_out=False).question) for _ in range(ANSWERS_PER_ROUND)]


def draft_loss(
    model: ReferenceModel, lora: DrafterLora, answers: Answers, block_size: int, rng: random.Random
) -> tuple[torch.Tensor, float]:
    """Return the loss of drafts at random places of ``answers`` and their mean acceptance.

    Every draft starts from ``[seed, M, ..., M]`` with the adapter on. A position counts up to and including
    the first rejection: the distance between drafter q and verifier p,
    ``lam * KL(p||q) + (1 - lam) * TV(p, q)`` with ``lam = exp(-0.5 * sum min(p, q))``, at temperature 3,
    plus cross entropy to the verifier's choice.
    """
    rows, length = answers.tokens.shape
    starts = torch.tensor(
        [
            [
                rng.randrange(answers.prompt_length, max(end - 1, answers.prompt_length + 1))
                for _ in range(BLOCKS_PER_ANSWER)
            ]
            for end in answers.ends
        ]
    )
    offsets = torch.arange(block_size)
    positions = (starts[:, :, None] + offsets).flatten(1) - answers.padding[:, None]  # [N, K * B]
    noisy = torch.full((rows, BLOCKS_PER_ANSWER, block_size), MASK_ID)
    noisy[:, :, 0] = answers.tokens.gather(1, starts)
    block = torch.arange(BLOCKS_PER_ANSWER).repeat_interleave(block_size)
    columns = torch.arange(length)
    prefix = columns < starts.repeat_interleave(block_size, dim=1)[:, :, None]
    prefix &= columns >= answers.padding[:, None, None]
    own = (block[:, None] == block).expand(rows, -1, -1)
    hidden, _ = model(
        noisy.flatten(1),
        positions,
        torch.cat([prefix, own], dim=2),
        cache=answers.cache,
        lora=lora,
        return_hidden=True,
    )
    hidden = hidden.unflatten(1, (BLOCKS_PER_ANSWER, block_size))[:, :, 1:]
    targets = starts[:, :, None] + offsets[1:]
    ends = torch.tensor(answers.ends)[:, None, None]
    inside = targets < ends
    targets = targets.clamp(max=length - 1)
    truth = answers.tokens.gather(1, targets.flatten(1)).view_as(targets)
    with torch.no_grad():
        right = (model.diffusion_head(hidden).argmax(-1) == truth) & inside
        accepted = right.long().cumprod(-1)
        counted = inside & (torch.cat([torch.ones_like(accepted[..., :1]), accepted[..., :-1]], dim=-1) > 0)
    row = torch.arange(rows)[:, None, None].expand_as(targets)[counted]
    drafted = model.diffusion_head(hidden[counted]).float()
    wanted = answers.logits[row, targets[counted] - 1].float()
    distance = _distribution_distance(wanted, drafted)
    entropy = functional.cross_entropy(drafted, truth[counted])
    return distance + entropy, accepted.sum(-1).float().mean().item()


def _distribution_distance(wanted: torch.Tensor, drafted: torch.Tensor) -> torch.Tensor:
    p = (wanted / ACCEPTANCE_TEMPERATURE).softmax(-1)
    log_q = (drafted / ACCEPTANCE_TEMPERATURE).log_softmax(-1)
    q = log_q.exp()
    share = torch.exp(-0.5 * torch.minimum(p, q).sum(-1).detach())
    divergence = (p * (p.clamp_min(1e-9).log() - log_q)).sum(-1)
    variation = 0.5 * (p - q).abs().sum(-1)
    return (share * divergence + (1.0 - share) * variation).mean()


def train_drafter(
    model: ReferenceModel,
    encoder: ChatEncoder,
    *,
    seed: int,
    steps: int,
    minutes: float | None = None,
    on_step: Callable[[DraftProgress], None] | None = None,
) -> DrafterLora:
    """Train a drafter LoRA for ``model``, which stays as it is, for ``steps`` steps or ``minutes``."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    lora = DrafterLora.create(model.config, LORA_RANK, LORA_ALPHA, generator)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rng = random.Random(seed)
    begin, step = time.monotonic(), 0
    with quick_attention(), ThreadPoolExecutor(1) as pool:
        for answers in _answer_ahead(model, draw_prompts(random.Random(seed), encoder), pool):
            for _ in range(ROUND_REPEATS):
                spent = (time.monotonic() - begin) / 60.0
                fraction = max(step / steps, spent / minutes if minutes else 0.0)
                if fraction >= 1.0:
                    return lora
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_share(fraction)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss, accepted = draft_loss(model, lora, answers, model.config.block_size, rng)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                if on_step is not None:
                    on_step(DraftProgress(step, fraction, loss.item(), accepted))
    return lora


def _answer_ahead(
    model: ReferenceModel, groups: Iterator[list[list[int]]], pool: ThreadPoolExecutor
) -> Iterator[Answers]:
    coming = pool.submit(answer_greedily, model, next(groups))
    while True:
        answers = coming.result()
        coming = pool.submit(answer_greedily, model, next(groups))
        yield answers
