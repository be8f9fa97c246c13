"""The objective: next-token loss on clean text and denoising loss on noisy blocks (docs/model.md, 4)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch.nn import functional

from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.conversations import Conversation
from nemotron_diffusion_plugin.tools.training.tokenizer import EOS_ID, MASK_ID

DIFFUSION_WEIGHT = 0.3
MIN_MASK_PROBABILITY = 1e-3
ALL_MASKED_SHARE = 0.25
ALIGNED_SHARE = 0.5
LENGTH_MULTIPLE = 16
ROWS_MULTIPLE = 128


@dataclass(slots=True)
class Batch:
    """Rows of ``[noisy blocks | clean conversation]`` with the places that carry a loss.

    ``tokens``, ``positions``: int64[N, S], S = K * block_size + T; ``visible``: bool[N, S, S];
    ``*_rows``: int64 indices into the flattened N * S rows; ``*_targets``: int64; ``noisy_weights``: float32,
    1/p; ``num_noisy``: the number of noised positions that an answer covers, masked or not.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    clean_rows: torch.Tensor
    clean_targets: torch.Tensor
    noisy_rows: torch.Tensor
    noisy_targets: torch.Tensor
    noisy_weights: torch.Tensor
    num_noisy: int


@dataclass(frozen=True, slots=True)
class NoisyBlock:
    """One noised block of an answer: its start, its clean tokens padded with EOS, and its own length."""

    start: int
    clean: list[int]
    length: int


def visibility(block_starts: torch.Tensor, block_size: int, clean_length: int) -> torch.Tensor:
    """Return bool[N, S, S] for rows of K noisy blocks and a clean text, S = K * block_size + clean_length.

    ``block_starts``: int64[N, K], the clean position at which each noisy block begins. A noisy token sees its
    own block and the clean tokens before the block; a clean token sees clean tokens up to itself
    (docs/model.md, 4).
    """
    rows, num_blocks = block_starts.shape
    noisy = num_blocks * block_size
    visible = torch.zeros(rows, noisy + clean_length, noisy + clean_length, dtype=torch.bool)
    block = torch.arange(noisy) // block_size
    visible[:, :noisy, :noisy] = block[:, None] == block
    starts = block_starts.repeat_interleave(block_size, dim=1)
    visible[:, :noisy, noisy:] = torch.arange(clean_length) < starts[:, :, None]
    visible[:, noisy:, noisy:] = torch.ones(clean_length, clean_length, dtype=torch.bool).tril()
    return visible


def cut_blocks(conversation: Conversation, block_size: int, rng: random.Random) -> list[NoisyBlock]:
    """Cut answers into blocks: from the first token as in diffusion, or from any as in self-speculation."""
    blocks = []
    for start, end in conversation.answers:
        offset = 0 if rng.random() < ALIGNED_SHARE else rng.randrange(min(block_size, end - start - 1) or 1)
        for begin in range(start + offset, max(end - 1, start + 1), block_size):
            clean = conversation.tokens[begin : min(begin + block_size, end)]
            blocks.append(NoisyBlock(begin, clean + [EOS_ID] * (block_size - len(clean)), len(clean)))
    return blocks


def make_batch(conversations: list[Conversation], block_size: int, rng: random.Random) -> Batch:
    """Noise the answers of ``conversations``: t ~ U(0, 1), p = (1 - e) t + e, each token is masked with p.

    A block's first token is its seed and is never masked. A share of the blocks is masked entirely, as a
    draft's block is. The noise comes from ``rng``. Sizes are rounded up with weightless rows, so that few
    shapes occur.
    """
    cut = [cut_blocks(conversation, block_size, rng) for conversation in conversations]
    num_blocks = max(map(len, cut))
    length = _round_up(max(len(c.tokens) for c in conversations), LENGTH_MULTIPLE)
    noisy = num_blocks * block_size
    size = noisy + length
    tokens = torch.full((len(cut), size), EOS_ID)
    positions = torch.zeros(len(cut), size, dtype=torch.int64)
    positions[:, noisy:] = torch.arange(length)
    starts = torch.zeros(len(cut), num_blocks, dtype=torch.int64)
    clean_rows: list[int] = []
    clean_targets: list[int] = []
    noisy_rows: list[int] = []
    noisy_targets: list[int] = []
    noisy_weights: list[float] = []
    num_noisy = 0
    for row, (conversation, blocks) in enumerate(zip(conversations, cut, strict=True)):
        tokens[row, noisy : noisy + len(conversation.tokens)] = torch.tensor(conversation.tokens)
        for begin, end in conversation.answers:
            clean_rows += range(row * size + noisy + begin - 1, row * size + noisy + end - 1)
            clean_targets += conversation.tokens[begin:end]
        for index, block in enumerate(blocks):
            first = index * block_size
            starts[row, index] = block.start
            positions[row, first : first + block_size] = torch.arange(block.start, block.start + block_size)
            t = 1.0 if rng.random() < ALL_MASKED_SHARE else rng.random()
            p = (1.0 - MIN_MASK_PROBABILITY) * t + MIN_MASK_PROBABILITY
            noised = list(block.clean)
            for offset in range(1, block_size):
                if rng.random() < p:
                    noised[offset] = MASK_ID
                    noisy_rows.append(row * size + first + offset)
                    noisy_targets.append(block.clean[offset])
                    noisy_weights.append(1.0 / p)
            tokens[row, first : first + block_size] = torch.tensor(noised)
            num_noisy += block.length
    padding = -(len(clean_rows) + len(noisy_rows)) % ROWS_MULTIPLE
    noisy_rows += [0] * padding
    noisy_targets += [EOS_ID] * padding
    noisy_weights += [0.0] * padding
    return Batch(
        tokens=tokens,
        positions=positions,
        visible=visibility(starts, block_size, length),
        clean_rows=torch.tensor(clean_rows),
        clean_targets=torch.tensor(clean_targets),
        noisy_rows=torch.tensor(noisy_rows, dtype=torch.int64),
        noisy_targets=torch.tensor(noisy_targets, dtype=torch.int64),
        noisy_weights=torch.tensor(noisy_weights),
        num_noisy=num_noisy,
    )


def losses(model: ReferenceModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (L_AR, L_diff) per answer token, float32 scalars; only rows with a loss get logits."""
    hidden, _ = model(batch.tokens, batch.positions, batch.visible, return_hidden=True)
    rows = torch.cat([batch.clean_rows, batch.noisy_rows])
    logits = model.diffusion_head(hidden.flatten(0, 1)[rows]).float()
    entropy = functional.cross_entropy(
        logits, torch.cat([batch.clean_targets, batch.noisy_targets]), reduction="none"
    )
    clean, noisy = entropy.split([len(batch.clean_rows), len(batch.noisy_rows)])
    return clean.mean(), (noisy * batch.noisy_weights).sum() / batch.num_noisy


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
