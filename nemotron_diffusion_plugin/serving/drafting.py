"""Drafting: one bidirectional forward for self-speculation, denoise forwards until no mask is left for diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockForward, BlockRows
from nemotron_diffusion_plugin.rules.constrain import DraftGrammar
from nemotron_diffusion_plugin.serving.constrained_drafts import ConstrainedDrafts
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.picking import BlockPicker, LogitsObserver
from nemotron_diffusion_plugin.serving.slots import BlockPhase, RequestTable

UNBOUNDED = 0
NO_GRAMMARS: Mapping[int, DraftGrammar] = MappingProxyType({})


@dataclass
class DraftResult:
    """The first forward's picks for the speculating slots, int64 `[R, B]`, and the slots whose block is finished."""

    drafts: torch.Tensor | None = None
    finished: list[int] = field(default_factory=list)


@dataclass
class _Group:
    """The slots that share the next forward, the first `num_speculating` of them speculating.

    `rows` (host) and `starts` (device) are the tokens and the first position of each block. `prepared` keeps the set-up
    of a forward over the whole group; a group too large for one forward is set up anew for each part, because attention
    backends keep one set of buffers.
    """

    slots: np.ndarray
    index: torch.Tensor
    num_speculating: int
    rows: np.ndarray
    starts: torch.Tensor
    upper_bound: int
    parts: list[slice]
    prepared: BlockRows | None = None


class Drafter:
    """Runs bidirectional forwards for the blocks of a `RequestTable`.

    A draft for self-speculation never waits for the device, unless a grammar is to choose its tokens. Denoising reads
    one flag per block and forward, because the number of denoise steps is decided by the model.
    """

    def __init__(
        self, table: RequestTable, forward: BlockForward, picker: BlockPicker, operators: Operators
    ) -> None:
        self.table = table
        self.forward = forward
        self.picker = picker
        self.operators = operators

    def run(
        self,
        speculating: np.ndarray,
        upper_bound: int,
        bound: int,
        only: np.ndarray | None = None,
        grammars: Mapping[int, DraftGrammar] = NO_GRAMMARS,
    ) -> DraftResult:
        """Draft for the `speculating` slots and go on with every unfinished block, for at most `bound` forwards.

        The blocks of the slots are laid out in the table. `upper_bound` bounds the sequence lengths of the speculating
        slots. `bound` is kept to whole denoise steps, at least one; `UNBOUNDED` finishes every block. `only` leaves out
        the blocks of all other slots. `grammars` choose the drafts of their slots, some of the speculating ones.
        """
        result = DraftResult()
        begun = self.forward.count
        group: _Group | None = None
        while True:
            denoising = np.flatnonzero(self.table.phase == BlockPhase.DENOISING)
            if only is not None:
                denoising = np.intersect1d(denoising, only)
            slots = np.concatenate([speculating, denoising])
            if not len(slots):
                return result
            if group is None or not np.array_equal(group.slots, slots):
                group = self._group(slots, len(speculating), upper_bound)
            picked, confidence = self._pick(group, grammars if len(speculating) else NO_GRAMMARS)
            if len(speculating):
                result.drafts = picked[: len(speculating)]
                speculating = speculating[:0]
            result.finished += self._commit(group, picked, confidence)
            if bound and self.forward.count - begun >= bound:
                return result

    def _group(self, slots: np.ndarray, num_speculating: int, upper_bound: int) -> _Group:
        table = self.table
        index = table.on_device(slots)
        starts = table.start_gpu[index]
        denoising = slots[num_speculating:]
        if len(denoising):
            upper_bound = max(upper_bound, int((table.start + table.block_size)[denoising].max()))
        rows = table.block_size[slots]
        parts = list(self.forward.chunks(rows))
        return _Group(slots, index, num_speculating, rows, starts, upper_bound, parts)

    def _prepared(self, group: _Group, part: slice) -> BlockRows:
        if group.prepared is not None:
            return group.prepared
        blocks = self.forward.prepare(
            group.slots[part],
            group.index[part],
            group.starts[part],
            group.rows[part],
            group.upper_bound,
            causal=False,
        )
        if len(group.parts) == 1:
            group.prepared = blocks
        return blocks

    def _lora_rows(self, slots: np.ndarray, rows: np.ndarray) -> torch.Tensor | None:
        active = self.table.draft_lora[slots]
        if not active.any():
            return None
        return self.table.on_device(np.repeat(active, rows)[:, None], self.forward.dtype)

    def _pick(self, group: _Group, grammars: Mapping[int, DraftGrammar]) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward of the group: picked tokens int64 `[R, B]` and confidences float32 `[R, B]`, 0 past a block."""
        tokens = self.table.blocks.tokens[group.index]
        picked, confidence = torch.zeros_like(tokens), tokens.new_zeros(tokens.shape, dtype=torch.float32)
        for part in group.parts:
            slots, blocks = group.slots[part], self._prepared(group, part)
            lora_rows = self._lora_rows(slots, group.rows[part])
            output = self.forward.run(blocks, tokens[part][blocks.owner, blocks.local], lora_rows)
            observers = self._observers(slots, blocks, grammars)
            ids, sure = self.picker.pick(slots, group.index[part], blocks, output, observers)
            picked[part][blocks.owner, blocks.local] = ids
            confidence[part][blocks.owner, blocks.local] = sure
        return picked, confidence

    def _observers(
        self, slots: np.ndarray, blocks: BlockRows, grammars: Mapping[int, DraftGrammar]
    ) -> list[LogitsObserver]:
        observers: list[LogitsObserver] = []
        if grammars:
            observers.append(ConstrainedDrafts(slots, blocks, grammars, self.table.mask_token_id))
        if self.table.logprobs.is_wanted(slots).any():
            observers.append(self.table.logprobs.observer(slots, blocks))
        return observers

    def _commit(self, group: _Group, picked: torch.Tensor, confidence: torch.Tensor) -> list[int]:
        """Commit on the denoising rows; returns the slots whose block is finished."""
        denoising = group.slots[group.num_speculating :]
        skipped = group.num_speculating
        if not len(denoising):
            return []
        table = self.table
        index = group.index[skipped:]
        blocks = table.read_blocks(index)
        masked = blocks.masked.clone() if table.logprobs.is_wanted(denoising).any() else None
        ended = self.operators.commit(
            blocks, picked[skipped:], confidence[skipped:], table.rules_of(index), table.stop_ids[index]
        )
        table.write_blocks(index, blocks)
        if masked is not None:
            table.logprobs.commit(denoising, masked & ~blocks.masked)
        table.steps[denoising] += 1
        finished = denoising[ended.cpu().numpy()]
        table.phase[finished] = BlockPhase.PLANNED
        table.planned[table.on_device(finished)] = True
        return [int(slot) for slot in finished]
