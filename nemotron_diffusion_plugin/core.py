"""What drafting asks of an engine: a bidirectional forward over blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


@dataclass
class BlockRows:
    """The rows of a forward over blocks, the same while the same blocks are denoised.

    `offsets` is `[R + 1]` on the host: block r is the rows `offsets[r]` to `offsets[r + 1]`. `owner` and `local`,
    int64 `[T]`, say for each row of the forward which block it belongs to and which place it has there; `positions`,
    int64 `[T]`, is its absolute position.
    """

    offsets: np.ndarray
    owner: torch.Tensor
    local: torch.Tensor
    positions: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Rows of the forward."""
        return int(self.offsets[-1])


class BlockForward(Protocol):
    """A forward of the target over blocks behind what each request has computed.

    `count` is the number of forwards run, `dtype` the model's.
    """

    count: int
    dtype: torch.dtype
    vocab_size: int

    def chunks(self, rows: np.ndarray) -> Iterable[slice]:
        """Split blocks of `rows` tokens each into what one forward can take."""

    def prepare(
        self,
        slots: np.ndarray,
        index: torch.Tensor,
        starts: torch.Tensor,
        rows: np.ndarray,
        upper_bound: int,
        causal: bool,
    ) -> BlockRows:
        """Set up one forward over blocks.

        Args:
            slots: the request slot of each block, `[R]` on the host.
            index: the same, int64 `[R]` on the device.
            starts: absolute position of each block's first token, int64 `[R]` on the device.
            rows: tokens of each block, `[R]` on the host.
            upper_bound: a bound on the sequence lengths, known to the host.
            causal: causal among the new tokens, else bidirectional.
        """

    def run(
        self, blocks: Any, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run what this forward has prepared over int token ids `[T]`; `logits` understands the rows it returns.

        `lora_rows` (`[T, 1]`, the model's dtype) is 1 where the drafter LoRA applies; None leaves it off.
        """

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """The logits `[T, V]` of rows of what `run` returned; they may be written to."""


def lay_out_rows(rows: np.ndarray, starts: torch.Tensor, counts: torch.Tensor) -> BlockRows:
    """Blocks of `rows` (host; `counts` on the device) tokens each, one behind the other, from `starts` on."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(rows, out=offsets[1:])
    device, num_tokens = starts.device, int(offsets[-1])
    blocks = torch.arange(len(rows), device=device)
    owner = torch.repeat_interleave(blocks, counts, output_size=num_tokens)
    begins = counts.cumsum(0) - counts
    local = torch.arange(num_tokens, device=device) - begins[owner]
    return BlockRows(offsets, owner, local, starts[owner] + local)
