"""Drafting: one bidirectional forward for self-speculation, denoise forwards until no mask is left for diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockForward, BlockRows, Blocks
from nemotron_diffusion_plugin.rules.constrain import DraftGrammar
from nemotron_diffusion_plugin.serving.constrained_drafts import ConstrainedDrafts, DraftWalk
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.picking import BlockPicker, LogitsObserver
from nemotron_diffusion_plugin.serving.slots import SlotTable

UNBOUNDED = 0
NO_WALKS: Mapping[int, DraftGrammar] = MappingProxyType({})
NOBODY = np.empty(0, dtype=np.int64)

WalksOf = Callable[[np.ndarray], Mapping[int, DraftWalk]]
"""Gives the grammars of some rows of a step (host), by row; only of those that have one."""


@dataclass
class DraftStep:
    """What an engine step begins to draft, one row for each of its R requests.

    Attributes:
        slots: request slots, host int64 `[R]`.
        begins: host bool `[R]`, the rows that begin a block: a diffusion request that has none, a speculating request
            whose block is longer than its seed.
        seeds: last token of each request, int64 `[R]` on the device.
        starts: position of each seed, int64 `[R]` on the device.
        bounds: what the host knows of `starts`, int64 `[R]`: upper bounds, exact for diffusion.
        max_model_len: most tokens of a request.
    """

    slots: np.ndarray
    begins: np.ndarray
    seeds: torch.Tensor
    starts: torch.Tensor
    bounds: np.ndarray
    max_model_len: int


@dataclass
class DraftResult:
    """What a run of draft forwards gave.

    Attributes:
        speculating: the rows of the step that were drafted for by one forward, host `[S]`.
        drafts: their blocks, int64 `[S, B]`; None without any.
        finished: the slots whose diffusion block holds no mask any more.
    """

    speculating: np.ndarray = field(default_factory=lambda: NOBODY)
    drafts: torch.Tensor | None = None
    finished: list[int] = field(default_factory=list)


@dataclass
class _Group:
    """The slots that share the next forward, the first `num_speculating` of them speculating.

    `prepared` keeps the set-up of a forward over the whole group; a group too large for one forward is set up anew for
    each part, because attention backends keep one set of buffers.
    """

    slots: np.ndarray
    num_speculating: int
    blocks: Blocks
    parts: list[slice]
    prepared: BlockRows | None = None


class Drafter:
    """Runs bidirectional forwards for the blocks of a `SlotTable`.

    A draft for self-speculation never waits for the device, unless a grammar is to choose its tokens. Denoising reads
    one flag per block and forward, because the number of denoise steps is decided by the model.
    """

    def __init__(
        self, table: SlotTable, forward: BlockForward, picker: BlockPicker, operators: Operators
    ) -> None:
        self.table = table
        self.forward = forward
        self.picker = picker
        self.operators = operators

    def draft(
        self, step: DraftStep, bound: int, walks_of: WalksOf, only: np.ndarray | None = None
    ) -> DraftResult:
        """Begin the blocks of a step, and run draft forwards as `run` does.

        `walks_of` gives the grammars that choose drafts; they are rewound afterwards.
        """
        table, slots = self.table, step.slots
        diffusion = table.is_diffusion(slots)
        fresh, speculating = np.flatnonzero(step.begins & diffusion), np.flatnonzero(step.begins & ~diffusion)
        if len(fresh):
            seeds = step.seeds[table.on_device(fresh)]
            table.begin_blocks(slots[fresh], step.bounds[fresh], seeds, step.max_model_len)
        if len(speculating):
            rows = table.on_device(speculating)
            table.begin_drafts(
                slots[speculating], step.seeds[rows], step.starts[rows], step.bounds[speculating]
            )
        walks = {int(slots[row]): walk for row, walk in walks_of(speculating).items()}
        result = self.run(slots[speculating], bound, only, walks)
        result.speculating = speculating
        for walk in walks.values():
            walk.rewind()
        return result

    def run(
        self,
        speculating: np.ndarray = NOBODY,
        bound: int = UNBOUNDED,
        only: np.ndarray | None = None,
        walks: Mapping[int, DraftGrammar] = NO_WALKS,
    ) -> DraftResult:
        """Draft for the `speculating` slots and denoise every unfinished block, for at most `bound` forwards.

        `bound` is kept to whole denoise steps, at least one; `UNBOUNDED` finishes every block. `only` leaves out the
        blocks of all other slots. `walks` choose the drafts of their slots, some of the speculating ones.
        """
        result = DraftResult()
        begun = self.forward.count
        group: _Group | None = None
        while True:
            denoising = self.table.denoising()
            if only is not None:
                denoising = np.intersect1d(denoising, only)
            slots = np.concatenate([speculating, denoising])
            if not len(slots):
                return result
            if group is None or not np.array_equal(group.slots, slots):
                group = self._group(slots, len(speculating))
            picked, confidence = self._pick(group, walks if len(speculating) else NO_WALKS)
            if len(speculating):
                result.drafts = picked[: len(speculating)]
                speculating = NOBODY
            result.finished += self._commit(group, picked, confidence)
            if bound and self.forward.count - begun >= bound:
                return result

    def _group(self, slots: np.ndarray, num_speculating: int) -> _Group:
        blocks = self.table.forward_blocks(slots, self.table.on_device(slots))
        return _Group(slots, num_speculating, blocks, list(self.forward.chunks(blocks.lengths)))

    def _prepared(self, group: _Group, part: slice) -> BlockRows:
        if group.prepared is not None:
            return group.prepared
        rows: BlockRows = self.forward.prepare(group.blocks.part(part), causal=False)
        if len(group.parts) == 1:
            group.prepared = rows
        return rows

    def _lora_rows(self, slots: np.ndarray, lengths: np.ndarray) -> torch.Tensor | None:
        active = self.table.draft_lora[slots]
        if not active.any():
            return None
        return self.table.on_device(np.repeat(active, lengths)[:, None], self.forward.dtype)

    def _pick(self, group: _Group, walks: Mapping[int, DraftGrammar]) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward of the group: picked tokens int64 `[R, B]` and confidences float32 `[R, B]`, 0 past a block."""
        tokens = self.table.blocks.tokens[group.blocks.index]
        picked, confidence = torch.zeros_like(tokens), tokens.new_zeros(tokens.shape, dtype=torch.float32)
        for part in group.parts:
            slots, rows, blocks = group.slots[part], self._prepared(group, part), group.blocks.part(part)
            lora_rows = self._lora_rows(slots, blocks.lengths)
            output = self.forward.run(rows, tokens[part][rows.owner, rows.local], lora_rows)
            ids, sure = self.picker.pick(slots, blocks, rows, output, self._observers(slots, rows, walks))
            picked[part][rows.owner, rows.local] = ids
            if sure is not None:
                confidence[part][rows.owner, rows.local] = sure
        return picked, confidence

    def _observers(
        self, slots: np.ndarray, rows: BlockRows, walks: Mapping[int, DraftGrammar]
    ) -> list[LogitsObserver]:
        observers: list[LogitsObserver] = []
        if walks:
            observers.append(ConstrainedDrafts(slots, rows, walks, self.table.mask_token_id))
        if self.table.logprobs.is_wanted(slots).any():
            observers.append(self.table.logprobs.observer(slots, rows))
        return observers

    def _commit(self, group: _Group, picked: torch.Tensor, confidence: torch.Tensor) -> list[int]:
        """Commit on the denoising rows; returns the slots whose block is finished."""
        skipped, table = group.num_speculating, self.table
        denoising, index = group.slots[skipped:], group.blocks.index[skipped:]
        if not len(denoising):
            return []
        blocks = table.read_blocks(index)
        masked = blocks.masked.clone() if table.logprobs.is_wanted(denoising).any() else None
        finished = self.operators.commit(
            blocks, picked[skipped:], confidence[skipped:], table.rules_of(index), table.stop_ids[index]
        )
        if masked is not None:
            table.logprobs.commit(denoising, masked & ~blocks.masked)
        return [int(slot) for slot in table.denoised(denoising, index, blocks, finished)]
