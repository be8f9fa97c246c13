"""The loss of an Eagle3 head: several draft steps that feed on each other, as when it drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.conversations import Conversation
from nemotron_diffusion_plugin.tools.training.eagle3.head import Context, Eagle3Head, read_target
from nemotron_diffusion_plugin.tools.training.tokenizer import EOS_ID


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts, what the target says of them, and where chains of drafts start.

    ``context``: tokens ``[N, T]`` and the target's vectors; ``wanted``: ``[N, T, vocab_size]``, the target's
    distribution of each column's next token; ``starts``: int64[N, R], the column of each chain's start; ``ends``:
    int64[N, R], the column past the answer that the chain drafts, 0 for a row that only fills the shape.
    """

    context: Context
    wanted: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor


def make_batch(
    model: ReferenceModel, conversations: Sequence[Conversation], layers: tuple[int, ...]
) -> Batch:
    """Lay out conversations and read the target on them; a chain starts before every token of an answer but one."""
    width = max(len(one.tokens) for one in conversations)
    padding = [width - len(one.tokens) for one in conversations]
    tokens = torch.tensor(
        [[EOS_ID] * gap + one.tokens for gap, one in zip(padding, conversations, strict=True)]
    )
    chains = [
        [(gap + column, gap + end) for begin, end in one.answers for column in range(begin - 1, end - 2)]
        for gap, one in zip(padding, conversations, strict=True)
    ]
    most = max(map(len, chains))
    filled = torch.tensor([[*some, *[(width - 1, 0)] * (most - len(some))] for some in chains])
    context, hidden = read_target(model, tokens, torch.tensor(padding), layers)
    wanted = model.diffusion_head(hidden).softmax(-1)
    return Batch(context, wanted, filled[..., 0], filled[..., 1])


def draft_loss(
    head: Eagle3Head, model: ReferenceModel, batch: Batch, steps: int, decay: float
) -> tuple[torch.Tensor, list[float]]:
    """Return the loss of ``steps`` draft steps and for each step the share of tokens drafted right.

    Each step is cross entropy to the target's distribution, averaged over the drafts inside their answers; step s
    has the weight ``decay ** s``.
    """
    embedding: nn.Embedding = model.encoder.embed_tokens
    width = batch.context.tokens.shape[1]
    total = torch.zeros(())
    right = []
    for step, hidden in enumerate(head.chains(embedding, batch.context, batch.starts, steps)):
        counted = batch.starts + step + 2 < batch.ends
        row, chain = counted.nonzero(as_tuple=True)
        column = (batch.starts + step + 1).clamp(max=width - 1)[row, chain]
        wanted = batch.wanted[row, column]
        logits = head.lm_head(hidden[row, chain])
        loss = -(wanted * logits.float().log_softmax(-1)).sum(-1).mean()
        total = total + decay**step * loss
        right.append((logits.argmax(-1) == wanted.argmax(-1)).float().mean().item())
    return total, right
