"""The state of the blocks that a batch is denoising (docs/model.md, 3.2)."""

from dataclasses import dataclass

import torch


@dataclass
class BlockState:
    """R blocks side by side; a block shorter than B occupies the first `length` positions of its row.

    Whether a position is masked is state: a prompt or a draft may hold the mask id as an ordinary token.

    Attributes:
        tokens: int64 `[R, B]`, the mask id where masked.
        masked: bool `[R, B]`, True while a position waits for its token.
        length: int64 `[R]`, positions of the block, the seed included.
        step: int64 `[R]`, denoise steps done.
    """

    tokens: torch.Tensor
    masked: torch.Tensor
    length: torch.Tensor
    step: torch.Tensor

    @classmethod
    def start(
        cls, seeds: torch.Tensor, lengths: torch.Tensor, block_size: int, mask_token_id: int
    ) -> "BlockState":
        """Return blocks `[seed, mask, ...]` for int64 `seeds` `[R]` and `lengths` `[R]` (1 to block_size)."""
        rows = seeds.shape[0]
        column = torch.arange(block_size, device=seeds.device)
        masked = (column > 0) & (column < lengths[:, None])
        tokens = torch.full((rows, block_size), mask_token_id, dtype=torch.int64, device=seeds.device)
        tokens[:, 0] = seeds
        return cls(tokens, masked, lengths.clone(), torch.zeros_like(lengths))

    @property
    def in_block(self) -> torch.Tensor:
        """Bool `[R, B]`: which positions belong to their block."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.length[:, None]

    @property
    def finished(self) -> torch.Tensor:
        """Bool `[R]`: no masks left."""
        return ~self.masked.any(dim=1)

    def commit(self, picked: torch.Tensor, chosen: torch.Tensor) -> None:
        """Write int64 `picked` `[R, B]` where bool `chosen` `[R, B]` says so; only masked positions change.

        A row that commits a token has done one more denoise step; a row that commits none has not taken part.
        """
        chosen = chosen & self.masked
        self.tokens.copy_(torch.where(chosen, picked, self.tokens))
        self.masked &= ~chosen
        self.step += chosen.any(dim=1)
