"""Log-probabilities of a diffusion request's tokens, as they were when each token was committed.

A token of a block is chosen by the denoise forward that commits it, not by the causal forward that accepts the block.
So its log-probability is that of the denoise logits: un-tempered and with the mask id in the denominator, which is the
logarithm of the confidence it was committed by (docs/model.md, 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockRows


@dataclass
class TokenScores:
    """Log-probabilities of n tokens and of others in their places.

    Attributes:
        token: float32 `[n]`, of the tokens themselves.
        rank: int64 `[n]`, 1 for the likeliest token of its place.
        top_ids: int64 `[n, k]`, the likeliest tokens of each place, the mask id left out.
        top: float32 `[n, k]`, theirs.
        named: float32 `[n, m]`, those of ids that the request has named.
    """

    token: torch.Tensor
    rank: torch.Tensor
    top_ids: torch.Tensor
    top: torch.Tensor
    named: torch.Tensor

    @classmethod
    def of(
        cls, scores: torch.Tensor, tokens: torch.Tensor, most: int, named: torch.Tensor, mask_token_id: int
    ) -> TokenScores:
        """Those of tokens int64 `[n]` among scores `[n, V]`: of the `most` likeliest (-1: all), and of `named` `[m]`.

        The scores of the mask id are overwritten.
        """
        token, of_named = scores.gather(1, tokens[:, None]), scores[:, named]
        scores[:, mask_token_id] = -torch.inf
        top, top_ids = scores.topk(scores.shape[1] if most < 0 else most, dim=1)
        return cls(token[:, 0], 1 + (scores > token).sum(dim=1), top_ids, top, of_named)

    @classmethod
    def join(cls, parts: Sequence[TokenScores]) -> TokenScores:
        """The scores of parts, one after the other."""
        return cls(*(torch.cat(values) for values in zip(*map(_values, parts), strict=True)))

    def where(self, chosen: torch.Tensor, other: TokenScores) -> TokenScores:
        """These scores where bool `chosen` `[n]`, the other ones elsewhere."""
        return TokenScores(
            *(
                torch.where(chosen if mine.dim() == 1 else chosen[:, None], mine, theirs)
                for mine, theirs in zip(_values(self), _values(other), strict=True)
            )
        )

    def at(self, places: torch.Tensor) -> TokenScores:
        """The scores of some places, int64 `[n]`."""
        return TokenScores(*(values[places] for values in _values(self)))


def _values(scores: TokenScores) -> tuple[torch.Tensor, ...]:
    return scores.token, scores.rank, scores.top_ids, scores.top, scores.named


class CommitLogprobs:
    """The scores of the block of each slot whose request wants them; other slots take no memory."""

    def __init__(self, mask_token_id: int, device: torch.device) -> None:
        self.as_logits = False
        """Whether the server reports logits instead of log-probabilities."""
        self._mask_token_id = mask_token_id
        self._device = device
        self._wanted: dict[int, tuple[int, torch.Tensor]] = {}
        self._step: dict[int, list[TokenScores]] = {}
        self._blocks: dict[int, TokenScores] = {}

    def take(self, slot: int, most: int | None, named: Sequence[int] = ()) -> None:
        """Take over a slot for a request that wants the `most` likeliest tokens of each place and the ids `named`.

        -1 stands for the whole vocabulary, None for a request that wants no log-probabilities.
        """
        self.release(slot)
        if most is not None:
            self._wanted[slot] = most, torch.tensor(list(named), dtype=torch.int64, device=self._device)

    def release(self, slot: int) -> None:
        """Forget all about a slot, whose request is gone."""
        for kept in (self._wanted, self._step, self._blocks):
            kept.pop(slot, None)

    def keep_only(self, slots: np.ndarray) -> None:
        """Forget the blocks of all other slots."""
        for slot in (self._step.keys() | self._blocks.keys()) - set(slots.tolist()):
            self._step.pop(slot, None)
            self._blocks.pop(slot, None)

    @property
    def num_held(self) -> int:
        """The slots of which anything is kept."""
        return len(self._wanted.keys() | self._step.keys() | self._blocks.keys())

    def is_wanted(self, slots: np.ndarray) -> np.ndarray:
        """Bool, shaped like the slots (host)."""
        if not self._wanted:
            return np.zeros(slots.shape, dtype=bool)
        return np.isin(slots, list(self._wanted))

    def observer(self, slots: np.ndarray, blocks: BlockRows) -> StepObserver:
        """What sees the logits of a denoise forward over the blocks of `slots`."""
        return StepObserver(self, slots, blocks)

    def see(self, slot: int, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Score the next rows of a slot's block: logits `[n, V]` and the tokens int64 `[n]` picked there."""
        most, named = self._wanted[slot]
        scores = logits.float().clone() if self.as_logits else logits.float().log_softmax(dim=1)
        kept = TokenScores.of(scores, tokens, most, named, self._mask_token_id)
        self._step.setdefault(slot, []).append(kept)

    def commit(self, slots: np.ndarray, committed: torch.Tensor) -> None:
        """Keep the scores of the places that a denoise step has committed, bool `[R, B]` for R slots."""
        for row in np.flatnonzero(self.is_wanted(slots)):
            slot = int(slots[row])
            scores = TokenScores.join(self._step.pop(slot))
            earlier = self._blocks.get(slot, scores)
            if len(earlier.token) != len(scores.token):
                earlier = scores
            self._blocks[slot] = scores.where(committed[row, : len(scores.token)], earlier)

    def of(self, slot: int, places: torch.Tensor) -> TokenScores | None:
        """The scores of some places (int64 `[n]`) of a slot's block, any for places outside.

        None where its request does not want them, or has committed nothing yet.
        """
        scores = self._blocks.get(slot)
        return None if scores is None else scores.at(places.clamp(0, len(scores.token) - 1))


class StepObserver:
    """A `serving.picking.LogitsObserver` of one denoise forward."""

    def __init__(self, logprobs: CommitLogprobs, slots: np.ndarray, blocks: BlockRows) -> None:
        self._logprobs = logprobs
        wanted = np.flatnonzero(logprobs.is_wanted(slots))
        self._blocks = [(int(slots[row]), *blocks.offsets[row : row + 2].tolist()) for row in wanted]

    def see(self, first: int, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Score the rows of blocks whose requests want that."""
        for slot, begin, end in self._blocks:
            rows = slice(max(begin - first, 0), max(end - first, 0))
            if len(tokens[rows]):
                self._logprobs.see(slot, logits[rows], tokens[rows])
