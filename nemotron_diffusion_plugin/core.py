"""The story on one page: what a request is, the phases of its block, and the forward that an engine lends.

A **request** is decoded in cycles. Its **seed** is the last token that a causal forward picked; it has no KV yet. A
**block** is the seed and the masks after it, at most the model's block size. A cycle drafts the block and verifies it:

1. `ar` drafts nothing: its block is the seed alone.
2. `self_speculation` fills all masks by one bidirectional forward, drafter LoRA on. `auto` does the same with a block
   length chosen for each cycle.
3. `diffusion` runs one bidirectional forward after the other. Each is a **denoise step**, which commits the masks that
   the request's commit rule chooses, until none is left.
4. The **verify forward** is causal, over seed and drafts, with the base weights. It writes the KV that stays, accepts
   the drafts that the mode's rule accepts, and picks the next seed.

Where things are: `rules/` says which masks are committed and which drafts accepted, in plain torch. `serving/` keeps
the block of every request in a slot (`slots.py`, the only place that changes a phase) and runs the drafts of a batch
(`drafting.py`). `vllm/` and `sglang/` bring the forward below, and carry requests and tokens between their engine and
these. docs/structure.md follows one request through both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import torch

from nemotron_diffusion_plugin.options import DecodingOptions


class BlockPhase(IntEnum):
    """Where a request stands with its block.

    NONE: it has no block, or one that lasts for a single step. DENOISING: its diffusion block still holds masks.
    PLANNED: no mask is left, and the block waits for its verify forward. ENDED: it drafts no more, though a step may
    still be under way.
    """

    NONE = 0
    DENOISING = 1
    PLANNED = 2
    ENDED = 3


@dataclass(frozen=True)
class Request:
    """What a worker has to know of a request; an engine's own object is read once, when the request gets its slot.

    Attributes:
        options: the decoding options.
        prompt_len: tokens of the prompt.
        limit: tokens of prompt and output with which it has ended.
        temperature: 0 takes the most likely token.
        min_tokens: new tokens before which a stop token does not come.
        stop_ids: token ids that end it.
        seeded: whether it samples with a noise seed of its own.
        logprobs: how many of the likeliest tokens it wants log-probabilities of, -1 for all, None for no
            log-probabilities at all.
        named_logprobs: token ids of which it wants them too.
    """

    options: DecodingOptions
    prompt_len: int
    limit: int
    temperature: float = 0.0
    min_tokens: int = 0
    stop_ids: Sequence[int] = ()
    seeded: bool = False
    logprobs: int | None = None
    named_logprobs: Sequence[int] = ()


@dataclass
class Blocks:
    """The blocks of one forward, R of them.

    Attributes:
        index: request slots, int64 `[R]` on the device.
        starts: absolute position of each block's first token, int64 `[R]` on the device.
        start_bounds: what the host knows of them, int64 `[R]`: upper bounds, exact for diffusion.
        lengths: tokens of each block, int64 `[R]` on the host.
        lengths_gpu: the same on the device.
    """

    index: torch.Tensor
    starts: torch.Tensor
    start_bounds: np.ndarray
    lengths: np.ndarray
    lengths_gpu: torch.Tensor

    @property
    def end_bound(self) -> int:
        """An upper bound of the sequence lengths with these blocks."""
        return int((self.start_bounds + self.lengths).max())

    def part(self, rows: slice) -> Blocks:
        """Some of the blocks."""
        return Blocks(
            self.index[rows],
            self.starts[rows],
            self.start_bounds[rows],
            self.lengths[rows],
            self.lengths_gpu[rows],
        )


@dataclass
class BlockRows:
    """The rows of a forward over blocks, T in all; the same as long as the same blocks are denoised.

    Attributes:
        offsets: int32 `[R + 1]` on the host; block r has the rows `offsets[r]` to `offsets[r + 1]`.
        owner: int64 `[T]`, the block of each row.
        local: int64 `[T]`, its place in that block.
        positions: int64 `[T]`, its absolute position.
    """

    offsets: np.ndarray
    owner: torch.Tensor
    local: torch.Tensor
    positions: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Rows of the forward."""
        return int(self.offsets[-1])


class ForwardOutput(Protocol):
    """What a forward over blocks computed: hidden states and logits, the same way on both engines.

    Attributes:
        hidden: `[T, hidden_size]` after the last norm; None where an engine was not asked for them.
    """

    hidden: torch.Tensor | None

    def logits(self, rows: slice) -> torch.Tensor:
        """Return the logits `[n, V]` of some rows; the caller may write to them."""


class BlockForward(Protocol):
    """A forward of the target over blocks after what each request has computed.

    Attributes:
        count: forwards run so far.
        dtype: the model's.
        vocab_size: columns of the logits.
    """

    count: int
    dtype: torch.dtype
    vocab_size: int

    def chunks(self, lengths: np.ndarray) -> Iterable[slice]:
        """Split blocks of these lengths (host `[R]`) into what one forward can take."""

    def prepare(self, blocks: Blocks, causal: bool) -> Any:
        """Set up a forward and return its `BlockRows`; causal among the new tokens, else bidirectional.

        A set-up is valid until the next one, which may reuse its buffers.
        """

    def run(
        self, rows: Any, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None, hidden: bool = False
    ) -> ForwardOutput:
        """Run what was prepared over int64 token ids `[T]`.

        `lora_rows` (`[T, 1]`, the model's dtype) is 1 where the drafter LoRA applies; None leaves it off. With `hidden`
        the output has hidden states.
        """


def lay_out_rows(blocks: Blocks) -> BlockRows:
    """Return the rows of blocks, one block after the other."""
    offsets = np.zeros(len(blocks.lengths) + 1, dtype=np.int32)
    np.cumsum(blocks.lengths, out=offsets[1:])
    device, num_tokens = blocks.starts.device, int(offsets[-1])
    owner = torch.repeat_interleave(
        torch.arange(len(blocks.lengths), device=device), blocks.lengths_gpu, output_size=num_tokens
    )
    begins = blocks.lengths_gpu.cumsum(0) - blocks.lengths_gpu
    local = torch.arange(num_tokens, device=device) - begins[owner]
    return BlockRows(offsets, owner, local, blocks.starts[owner] + local)


def split(lengths: np.ndarray, most: int, alike: bool = False) -> Iterator[slice]:
    """Split blocks of `lengths` (host `[R]`) into runs of at most `most` rows, if `alike` of one length each.

    A block of more rows makes a run of its own.
    """
    start = total = 0
    for place, length in enumerate(lengths.tolist()):
        is_full = total + length > most or (alike and length != lengths[start])
        if place > start and is_full:
            yield slice(start, place)
            start, total = place, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
