"""What a worker keeps for each request slot: its options, its stop tokens and the block it is in."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.logprobs import CommitLogprobs
from nemotron_diffusion_plugin.settings import ServerSettings

NO_TOKEN = -1
MAX_STOP_IDS = 128
"""The most stop tokens of a request; the admission checks refuse more."""


class BlockPhase(IntEnum):
    """Where a request stands with its block; ENDED requests draft no more, though a step may still be under way."""

    NONE = 0
    DENOISING = 1
    PLANNED = 2
    ENDED = 3


class RequestTable:
    """Fixed-size state by slot; a slot is overwritten by the next request, so nothing outlives a request.

    Host arrays hold what the host decides by, device tensors what forwards and acceptance read. `N` is the largest
    number of requests, `B` the block length.

    Attributes:
        blocks: the block of each slot, device tensors `[N, B]`.
        start: absolute position of the block's seed, host `[N]` and device `[N]` (`start_gpu`).
        planned: device bool `[N]`, whether the block is finished and its tokens are to be accepted as they are.
        limit: device int64 `[N]`, tokens of prompt and output with which a request has ended.
        stop_ids: device int64 `[N, S]`, padded with -1.
        rules: the commit rules, device tensors `[N]`.
        mode: decoding mode by `MODE_CODES`, host `[N]`; auto counts as self-speculation, and `auto` tells it apart.
        most: the longest block of each slot, host `[N]`; `block_size` is the length of the block at hand.
        logprobs: the log-probabilities of what was committed, for diffusion requests that want them.
        by_seed: host bool `[N]`, whether the request samples with a seed and a causal forward decides for it: then it
            draws what AR draws, however it is drafted for.
    """

    def __init__(self, settings: ServerSettings, size: int, mask_token_id: int, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.mask_token_id = mask_token_id
        self.mode = np.zeros(size, dtype=np.int8)
        self.auto = np.zeros(size, dtype=bool)
        self.draft_lora = np.zeros(size, dtype=bool)
        self.block_size = np.ones(size, dtype=np.int32)
        self.most = np.ones(size, dtype=np.int32)
        self.prompt_len = np.zeros(size, dtype=np.int64)
        self.phase = np.zeros(size, dtype=np.int8)
        self.start = np.zeros(size, dtype=np.int64)
        self.steps = np.zeros(size, dtype=np.int32)
        self.temperature = np.zeros(size, dtype=np.float64)
        self.banned_until = np.zeros(size, dtype=np.int64)
        self.by_seed = np.zeros(size, dtype=bool)
        self.start_gpu = torch.zeros(size, dtype=torch.int64, device=device)
        self.planned = torch.zeros(size, dtype=torch.bool, device=device)
        self.limit = torch.zeros(size, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((size, MAX_STOP_IDS), NO_TOKEN, dtype=torch.int64, device=device)
        zeros = torch.zeros(size, dtype=torch.int64, device=device)
        self.blocks = BlockState.start(zeros, zeros, settings.block_size, mask_token_id)
        self.rules = CommitRules.of([settings.defaults] * size, device)
        self.logprobs = CommitLogprobs(mask_token_id, device)

    def take(
        self,
        slot: int,
        options: DecodingOptions,
        *,
        prompt_len: int,
        limit: int,
        temperature: float,
        min_tokens: int,
        stop_ids: Sequence[int],
        seeded: bool = False,
        logprobs: int | None = None,
        named_logprobs: Sequence[int] = (),
    ) -> None:
        """Take over a slot for a request of `prompt_len` tokens; preempted requests come this way again.

        The request ends with `limit` tokens in all, or with one of `stop_ids` after `min_tokens` new tokens. It samples
        with a seed of its own where it is `seeded` and has a temperature. It wants the log-probabilities of its tokens,
        of the `logprobs` likeliest beside each (-1: all) and of the ids `named_logprobs`; None where it wants none.
        """
        mode = options.decoding_mode
        self.auto[slot] = mode is DecodingMode.AUTO
        self.mode[slot] = SELF_SPECULATION if mode.speculates else MODE_CODES[mode]
        self.draft_lora[slot] = options.draft_lora and mode.speculates
        self.block_size[slot] = self.most[slot] = drafted_block(options)
        self.prompt_len[slot] = prompt_len
        self.release(slot)
        self.logprobs.take(slot, logprobs if mode is DecodingMode.DIFFUSION else None, named_logprobs)
        self.temperature[slot] = temperature
        self.by_seed[slot] = seeded and temperature > 0 and mode is not DecodingMode.DIFFUSION
        self.banned_until[slot] = prompt_len + min_tokens
        self.limit[slot] = limit
        row = np.full(MAX_STOP_IDS, NO_TOKEN, dtype=np.int64)
        row[: len(stop_ids)] = stop_ids
        self.stop_ids[slot] = self.on_device(row)
        rule = CommitRules.of([options])
        self.rules.kind[slot] = int(rule.kind)
        self.rules.threshold[slot] = float(rule.threshold)
        self.rules.steps[slot] = int(rule.steps)
        self.rules.tokens_per_step[slot] = int(rule.tokens_per_step)

    def release(self, slot: int) -> None:
        """Forget the block of a slot: its request is new, finished, aborted or preempted."""
        self.logprobs.release(slot)
        self.phase[slot] = BlockPhase.NONE
        self.planned[slot] = False

    def on_device(self, values: np.ndarray, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """Copy host values to the device without waiting for it."""
        host = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        if self.device.type == "cpu":
            return host.clone()
        return host.pin_memory().to(self.device, non_blocking=True)

    def modes(self, slots: np.ndarray) -> np.ndarray:
        """The modes that the requests asked for, by `MODE_CODES`, shaped like the slots."""
        return np.where(self.auto[slots], AUTO, self.mode[slots])

    def is_diffusion(self, slots: np.ndarray) -> np.ndarray:
        """Bool, shaped like the slots."""
        return self.mode[slots] == DIFFUSION

    def begin_blocks(self, slots: np.ndarray, starts: np.ndarray, seeds: torch.Tensor, last: int) -> None:
        """Start a block of masks behind each seed (int64 `[R]`), cut off after absolute position `last`."""
        index = self.on_device(slots)
        lengths = np.clip(last + 1 - starts, 1, self.block_size[slots])
        self.lay_out(index, seeds, self.on_device(lengths))
        self.phase[slots] = BlockPhase.DENOISING
        self.start[slots] = starts
        self.steps[slots] = 0
        self.start_gpu[index] = self.on_device(starts)
        self.planned[index] = False

    def lay_out(self, index: torch.Tensor, seeds: torch.Tensor, lengths: torch.Tensor) -> None:
        """Put `[seed, mask, ...]` into the slots `index`; all int64 `[R]` on the device."""
        size = self.settings.block_size
        self.write_blocks(index, BlockState.start(seeds, lengths, size, self.mask_token_id))

    def read_blocks(self, index: torch.Tensor) -> BlockState:
        """The blocks of the slots `index` (int64 `[R]`), a copy."""
        blocks = self.blocks
        return BlockState(
            blocks.tokens[index], blocks.masked[index], blocks.length[index], blocks.step[index]
        )

    def write_blocks(self, index: torch.Tensor, rows: BlockState) -> None:
        """Put blocks back into their slots."""
        self.blocks.tokens[index] = rows.tokens
        self.blocks.masked[index] = rows.masked
        self.blocks.length[index] = rows.length
        self.blocks.step[index] = rows.step

    def rules_of(self, index: torch.Tensor) -> CommitRules:
        """The commit rules of the slots `index`."""
        rules = self.rules
        return CommitRules(
            rules.kind[index], rules.threshold[index], rules.steps[index], rules.tokens_per_step[index]
        )

    def is_stop(self, index: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Whether tokens `[R, W]` end the request of their slot, bool `[R, W]`."""
        return (tokens[:, :, None] == self.stop_ids[index][:, None, :]).any(dim=2)

    def banned_rows(self, slots: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How many of the first `rows` positions from `starts` on come before `min_tokens`, host `[R]`."""
        return np.clip(self.banned_until[slots] - starts, 0, rows)


MODE_CODES = {mode: code for code, mode in enumerate(DecodingMode)}
MODES = tuple(MODE_CODES)
AR = MODE_CODES[DecodingMode.AR]
DIFFUSION = MODE_CODES[DecodingMode.DIFFUSION]
SELF_SPECULATION = MODE_CODES[DecodingMode.SELF_SPECULATION]
AUTO = MODE_CODES[DecodingMode.AUTO]


def drafted_block(options: DecodingOptions) -> int:
    """The longest block a request drafts: 1, that is no drafts, in AR mode."""
    return 1 if options.decoding_mode is DecodingMode.AR else options.block_size
