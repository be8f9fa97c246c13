"""The table of request slots: the options of each request, and the one place where its block changes phase."""

from __future__ import annotations

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockPhase, Blocks, Request
from nemotron_diffusion_plugin.options import MAX_STOP_IDS, DecodingMode
from nemotron_diffusion_plugin.rules.block import BlockState, block_lengths
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.logprobs import CommitLogprobs
from nemotron_diffusion_plugin.settings import ServerSettings

NO_TOKEN = -1


class SlotTable:
    """Fixed-size state by slot; the next request in a slot overwrites it, so nothing outlives a request.

    Host arrays hold what the host decides by, device tensors what forwards and acceptance read. N is the number of
    slots, B the model's block size. `phase`, `start` and `length` can be written by this class alone: others get arrays
    that refuse writes.

    Attributes:
        blocks: the block of each slot, device tensors `[N, B]`.
        phase: its `BlockPhase`, host `[N]`.
        start: absolute position of its seed, host `[N]`: an upper bound, exact for diffusion. `start_gpu` is exact.
        length: its tokens, host `[N]`.
        steps: its denoise steps, host `[N]`.
        planned: whether its tokens are to be accepted as they are, device bool `[N]`.
        mode: `DecodingMode.code` of each request, host `[N]`.
        longest: the longest block of each request, host `[N]`.
        limit: tokens of prompt and output with which a request has ended, device int64 `[N]`.
        stop_ids: device int64 `[N, S]`, padded with -1.
        rules: the commit rules, device tensors `[N]`.
        by_seed: whether a causal forward draws by the request's own noise seed, host bool `[N]`: then it draws what AR
            draws, however the request is drafted for.
        logprobs: the log-probabilities of what was committed, for diffusion requests that want them.
    """

    def __init__(self, settings: ServerSettings, size: int, mask_token_id: int, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.mask_token_id = mask_token_id
        self.mode = np.zeros(size, dtype=np.int8)
        self.draft_lora = np.zeros(size, dtype=bool)
        self.longest = np.ones(size, dtype=np.int64)
        self.prompt_len = np.zeros(size, dtype=np.int64)
        self.temperature = np.zeros(size, dtype=np.float64)
        self.banned_until = np.zeros(size, dtype=np.int64)
        self.by_seed = np.zeros(size, dtype=bool)
        self._num_stop_ids = np.zeros(size, dtype=np.int64)
        self._phase, self.phase = _guarded(np.zeros(size, dtype=np.int8))
        self._start, self.start = _guarded(np.zeros(size, dtype=np.int64))
        self._length, self.length = _guarded(np.ones(size, dtype=np.int64))
        self._steps, self.steps = _guarded(np.zeros(size, dtype=np.int32))
        self.start_gpu = torch.zeros(size, dtype=torch.int64, device=device)
        self.planned = torch.zeros(size, dtype=torch.bool, device=device)
        self.limit = torch.zeros(size, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((size, MAX_STOP_IDS), NO_TOKEN, dtype=torch.int64, device=device)
        zeros = torch.zeros(size, dtype=torch.int64, device=device)
        self.blocks = BlockState.start(zeros, zeros, settings.block_size, mask_token_id)
        self.rules = CommitRules.of([settings.defaults] * size, device)
        self.logprobs = CommitLogprobs(mask_token_id, device)

    def take(self, slot: int, request: Request) -> None:
        """Give a slot to a request; a preempted request comes this way again."""
        options, mode = request.options, request.options.decoding_mode
        is_diffusion = mode is DecodingMode.DIFFUSION
        self.release(slot)
        self.mode[slot] = mode.code
        self.draft_lora[slot] = options.draft_lora and mode.speculates
        self.longest[slot] = self._length[slot] = options.longest_block
        self.prompt_len[slot] = request.prompt_len
        self.temperature[slot] = request.temperature
        self.by_seed[slot] = request.seeded and request.temperature > 0 and not is_diffusion
        self.banned_until[slot] = request.prompt_len + request.min_tokens
        self.limit[slot] = request.limit
        row = np.full(MAX_STOP_IDS, NO_TOKEN, dtype=np.int64)
        row[: len(request.stop_ids)] = request.stop_ids
        self.stop_ids[slot] = self.on_device(row)
        self._num_stop_ids[slot] = len(request.stop_ids)
        self.rules.put(slot, options)
        self.logprobs.take(slot, request.logprobs if is_diffusion else None, request.named_logprobs)

    def release(self, slot: int) -> None:
        """Forget the block of a slot: its request is new, finished, aborted or preempted."""
        self.logprobs.release(slot)
        self._phase[slot] = BlockPhase.NONE
        self.planned[slot] = False

    def place(self, slots: np.ndarray, index: torch.Tensor, starts: torch.Tensor, bounds: np.ndarray) -> None:
        """Note where requests stand: the positions of their seeds, int64 `[R]`, and upper bounds on the host."""
        self._start[slots] = bounds
        self.start_gpu[index] = starts

    def choose_lengths(self, slots: np.ndarray, lengths: np.ndarray | int) -> None:
        """Set the length of the block that comes next, host `[R]`."""
        self._length[slots] = lengths

    def begin_blocks(
        self, slots: np.ndarray, starts: np.ndarray, seeds: torch.Tensor, max_model_len: int
    ) -> None:
        """Start a block of masks after each seed (int64 `[R]` at `starts`, host); a block of one has no masks."""
        index, lengths = self.on_device(slots), block_lengths(starts, self.longest[slots], max_model_len)
        self._lay_out(index, seeds, self.on_device(lengths))
        self.place(slots, index, self.on_device(starts), starts)
        self._length[slots] = lengths
        self._steps[slots] = 0
        has_masks = lengths > 1
        self._phase[slots] = np.where(has_masks, BlockPhase.DENOISING, BlockPhase.PLANNED)
        self.planned[index] = self.on_device(~has_masks, torch.bool)

    def begin_drafts(
        self, slots: np.ndarray, seeds: torch.Tensor, starts: torch.Tensor, bounds: np.ndarray
    ) -> None:
        """Start a block of the chosen length after each seed, for one draft; arguments as for `place`."""
        index = self.on_device(slots)
        self._lay_out(index, seeds, self.on_device(self._length[slots]))
        self.place(slots, index, starts, bounds)

    def mask_after(self, slot: int, tokens: torch.Tensor) -> None:
        """Put tokens int64 `[n]` at the beginning of a slot's block, and masks after them that are denoised anew."""
        count = len(tokens)
        column = torch.arange(self.settings.block_size, device=self.device)
        self.blocks.tokens[slot, :count] = tokens
        self.blocks.tokens[slot, count:] = self.mask_token_id
        self.blocks.masked[slot] = (column >= count) & (column < self.blocks.length[slot])
        self.planned[slot] = False
        self._phase[slot] = BlockPhase.DENOISING

    def denoised(
        self, slots: np.ndarray, index: torch.Tensor, blocks: BlockState, finished: torch.Tensor
    ) -> np.ndarray:
        """Take the blocks of a denoise step back; return the slots whose block is finished (bool `[R]`).

        Waits for the device: the number of denoise steps is decided there.
        """
        self._write(index, blocks)
        self._steps[slots] += 1
        done = slots[finished.cpu().numpy()]
        self._phase[done] = BlockPhase.PLANNED
        self.planned[self.on_device(done)] = True
        return done

    def hand_over(self, slots: np.ndarray) -> None:
        """The blocks of these slots have been verified."""
        self._phase[slots] = BlockPhase.NONE

    def end(self, slots: np.ndarray) -> None:
        """The requests of these slots draft no more."""
        self._phase[slots] = BlockPhase.ENDED

    def is_in(self, slots: np.ndarray, *phases: BlockPhase) -> np.ndarray:
        """Whether the blocks of slots are in one of the phases, bool, shaped like the slots."""
        return np.isin(self._phase[slots], phases)

    def denoising(self) -> np.ndarray:
        """The slots whose block still holds masks."""
        return np.flatnonzero(self._phase == BlockPhase.DENOISING)

    def is_mode(self, slots: np.ndarray, mode: DecodingMode) -> np.ndarray:
        """Bool, shaped like the slots."""
        return self.mode[slots] == mode.code

    def is_diffusion(self, slots: np.ndarray) -> np.ndarray:
        """Bool, shaped like the slots."""
        return self.is_mode(slots, DecodingMode.DIFFUSION)

    def forward_blocks(
        self, slots: np.ndarray, index: torch.Tensor, lengths: np.ndarray | None = None
    ) -> Blocks:
        """The blocks of slots (`index` on the device) for a forward; `lengths` (host) cuts them short."""
        lengths = self._length[slots] if lengths is None else lengths
        return Blocks(
            index, self.start_gpu[index], self._start[slots], lengths, self.on_device(np.asarray(lengths))
        )

    def read_blocks(self, index: torch.Tensor) -> BlockState:
        """The blocks of the slots `index` (int64 `[R]`), a copy."""
        blocks = self.blocks
        return BlockState(
            blocks.tokens[index], blocks.masked[index], blocks.length[index], blocks.step[index]
        )

    def rules_of(self, index: torch.Tensor) -> CommitRules:
        """The commit rules of the slots `index`."""
        return self.rules.at(index)

    def planned_token(
        self, index: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is planned after positions int64 `[R]` of the slots `index`.

        Returns whether anything is (inside a finished block only), its place in the block, and the token; all `[R]`.
        """
        place = positions + 1 - self.start_gpu[index]
        inside = self.planned[index] & (place >= 1) & (place < self.blocks.length[index])
        return inside, place, self.blocks.tokens[index, place.clamp(0, self.settings.block_size - 1)]

    def has_ended(
        self, index: torch.Tensor, tokens: torch.Tensor, counts: torch.Tensor, total: torch.Tensor
    ) -> torch.Tensor:
        """Whether requests of now `total` tokens end with the first `counts` of tokens `[R, W]`, bool `[R]`."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        stopped = (self.is_stop(index, tokens) & real).any(dim=1)
        return stopped | (total >= self.limit[index])

    def is_stop(self, index: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Whether tokens `[R, W]` end the request of their slot, bool `[R, W]`."""
        return (tokens[:, :, None] == self.stop_ids[index][:, None, :]).any(dim=2)

    def stop_ids_of(self, slot: int) -> torch.Tensor:
        """The stop ids of a slot's request, int64 `[S]`, without padding and without waiting for the device."""
        return self.stop_ids[slot, : int(self._num_stop_ids[slot])]

    def banned_rows(self, slots: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How many of the first `rows` positions from `starts` on come before `min_tokens`, host `[R]`."""
        return np.clip(self.banned_until[slots] - starts, 0, rows)

    def on_device(self, values: np.ndarray, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """Copy host values to the device without waiting for it."""
        host = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        if self.device.type == "cpu":
            return host.clone()
        return host.pin_memory().to(self.device, non_blocking=True)

    def _lay_out(self, index: torch.Tensor, seeds: torch.Tensor, lengths: torch.Tensor) -> None:
        self._write(index, BlockState.start(seeds, lengths, self.settings.block_size, self.mask_token_id))

    def _write(self, index: torch.Tensor, blocks: BlockState) -> None:
        self.blocks.tokens[index] = blocks.tokens
        self.blocks.masked[index] = blocks.masked
        self.blocks.length[index] = blocks.length
        self.blocks.step[index] = blocks.step


def _guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The array, and a view of it that refuses writes."""
    view = array.view()
    view.flags.writeable = False
    return array, view
