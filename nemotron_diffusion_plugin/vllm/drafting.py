"""Drafting: one bidirectional forward for self-speculation, denoise forwards until no mask is left for diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.decoding.commit import choose
from nemotron_diffusion_plugin.decoding.stop import ends_block
from nemotron_diffusion_plugin.vllm.block_forward import BlockForward, PreparedBlocks
from nemotron_diffusion_plugin.vllm.picking import BlockPicker
from nemotron_diffusion_plugin.vllm.request_table import BlockPhase, RequestTable

UNBOUNDED = 0


@dataclass
class DraftResult:
    """The first forward's picks for the speculating slots, int64 `[R, B]`, and the slots whose block is finished."""

    drafts: torch.Tensor | None = None
    finished: list[int] = field(default_factory=list)


@dataclass
class _Chunk:
    rows: slice
    blocks: PreparedBlocks
    lora_rows: torch.Tensor | None


@dataclass
class _Group:
    """The slots that share the next forward, the first `num_speculating` of them speculating."""

    slots: np.ndarray
    index: torch.Tensor
    num_speculating: int
    chunks: list[_Chunk]


class Drafter:
    """Runs bidirectional forwards for the blocks of a `RequestTable`.

    Self-speculation never waits for the device. Diffusion reads one flag per block and forward, because the number of
    denoise steps is decided by the model.
    """

    def __init__(self, table: RequestTable, forward: BlockForward, sampling_states: Any) -> None:
        self.table = table
        self.forward = forward
        self.picker = BlockPicker(table, forward, sampling_states)

    def run(self, speculating: np.ndarray, upper_bound: int, bound: int) -> DraftResult:
        """Draft for the `speculating` slots and go on with every unfinished block, for at most `bound` forwards.

        The blocks of the slots are laid out in the table. `upper_bound` bounds the sequence lengths of the speculating
        slots. `bound` is kept to whole denoise steps, at least one; `UNBOUNDED` finishes every block.
        """
        result = DraftResult()
        begun = self.forward.count
        group: _Group | None = None
        while True:
            denoising = np.flatnonzero(self.table.phase == BlockPhase.DENOISING)
            slots = np.concatenate([speculating, denoising])
            if not len(slots):
                return result
            if group is None or not np.array_equal(group.slots, slots):
                group = self._group(slots, len(speculating), upper_bound)
            picked, confidence = self._pick(group)
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
        chunks = [
            _Chunk(
                part,
                self.forward.prepare(index[part], starts[part], rows[part], upper_bound, causal=False),
                self._lora_rows(slots[part], rows[part]),
            )
            for part in self.forward.chunks(rows)
        ]
        return _Group(slots, index, num_speculating, chunks)

    def _lora_rows(self, slots: np.ndarray, rows: np.ndarray) -> torch.Tensor | None:
        active = self.table.draft_lora[slots]
        if not active.any():
            return None
        return self.table.on_device(np.repeat(active, rows)[:, None], self.forward.dtype)

    def _pick(self, group: _Group) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward of the group: picked tokens int64 `[R, B]` and confidences float32 `[R, B]`, 0 past a block."""
        tokens = self.table.blocks.tokens[group.index]
        picked, confidence = torch.zeros_like(tokens), tokens.new_zeros(tokens.shape, dtype=torch.float32)
        for chunk in group.chunks:
            blocks = chunk.blocks
            hidden = self.forward.run(blocks, tokens[chunk.rows][blocks.owner, blocks.local], chunk.lora_rows)
            ids, sure = self.picker.pick(group.slots[chunk.rows], group.index[chunk.rows], blocks, hidden)
            picked[chunk.rows][blocks.owner, blocks.local] = ids
            confidence[chunk.rows][blocks.owner, blocks.local] = sure
        return picked, confidence

    def _commit(self, group: _Group, picked: torch.Tensor, confidence: torch.Tensor) -> list[int]:
        """Commit on the denoising rows; returns the slots whose block is finished."""
        denoising = group.slots[group.num_speculating :]
        skipped = group.num_speculating
        if not len(denoising):
            return []
        table = self.table
        index = group.index[skipped:]
        blocks = table.read_blocks(index)
        chosen = choose(
            confidence[skipped:], blocks.masked, blocks.step, blocks.length - 1, table.rules_of(index)
        )
        blocks.commit(picked[skipped:], chosen)
        table.write_blocks(index, blocks)
        table.steps[denoising] += 1
        stops = table.is_stop(index, blocks.tokens) & ~blocks.masked & blocks.in_block
        done = (blocks.finished | ends_block(blocks.tokens, blocks.masked, stops)).cpu().numpy()
        finished = denoising[done]
        table.phase[finished] = BlockPhase.PLANNED
        table.planned[table.on_device(finished)] = True
        return [int(slot) for slot in finished]
