"""The operators of drafting and acceptance behind one interface: plain torch, or the Triton kernels."""

from __future__ import annotations

from typing import Protocol

import torch

from nemotron_diffusion_plugin.rules.accept import accept_longest_prefix
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose
from nemotron_diffusion_plugin.rules.pick import pick, pick_tokens
from nemotron_diffusion_plugin.rules.stop import ends_block
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.kernel_choice import check_kernels
from nemotron_diffusion_plugin.settings import TORCH, TRITON


class Operators(Protocol):
    """What drafting and acceptance compute on the device; nothing of it is read on the host.

    Two implementations pick, commit and accept the same tokens: noise is bit-equal, and confidences agree to float32's
    rounding. The low-rank branch agrees to the rounding of its dtype.
    """

    name: str

    def pick(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens int64 `[T]` and their confidences float32 `[T]` for logits `[T, V]`; see `rules.pick.pick`.

        Without `sampling` every row takes the most likely token; without `mask_token_id` any token may be picked.
        """

    def pick_tokens(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> torch.Tensor:
        """Return the tokens alone that `pick` picks, where nobody reads their confidences."""

    def commit(
        self,
        blocks: BlockState,
        picked: torch.Tensor,
        confidence: torch.Tensor,
        rules: CommitRules,
        stop_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Commit `picked` int64 `[R, B]` into `blocks`, in place, and return which are finished, bool `[R]`.

        `confidence` is float32 `[R, B]`. `stop_ids` is int64 `[R, S]`, filled up with -1: a stop token before
        every mask finishes a block.
        """

    def accept(self, drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor) -> torch.Tensor:
        """Return how many leading drafts agree, int64 `[R]`; see `rules.accept.accept_longest_prefix`."""

    def shrink(self, inputs: torch.Tensor, a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return A(x), `[T, r]`, for inputs `[T, D]` where `rows` `[T, 1]` is not 0; the other rows mean nothing."""

    def expand(self, output: torch.Tensor, low: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
        """Add B(low) to `output` `[T, H]` in place where `rows` `[T, 1]`, of its dtype, is 1 and not 0."""


class TorchOperators:
    """The rules of `rules/`, on any device."""

    name = TORCH

    def pick(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operators.pick`."""
        if sampling is None:
            return pick(logits, mask_token_id)
        return pick(logits, mask_token_id, sampling.temperature, sampling.noise(logits.shape[1]))

    def pick_tokens(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> torch.Tensor:
        """See `Operators.pick_tokens`."""
        if sampling is None:
            return pick_tokens(logits, mask_token_id)
        return pick_tokens(logits, mask_token_id, sampling.temperature, sampling.noise(logits.shape[1]))

    def commit(
        self,
        blocks: BlockState,
        picked: torch.Tensor,
        confidence: torch.Tensor,
        rules: CommitRules,
        stop_ids: torch.Tensor,
    ) -> torch.Tensor:
        """See `Operators.commit`."""
        chosen = choose(confidence, blocks.masked, blocks.step, blocks.length - 1, rules)
        blocks.commit(picked, chosen)
        is_stop = (blocks.tokens[:, :, None] == stop_ids[:, None, :]).any(dim=2)
        is_stop &= ~blocks.masked & blocks.in_block
        return blocks.finished | ends_block(blocks.tokens, blocks.masked, is_stop)

    def accept(self, drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor) -> torch.Tensor:
        """See `Operators.accept`."""
        return accept_longest_prefix(drafts, verified, num_drafts)

    def shrink(self, inputs: torch.Tensor, a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `Operators.shrink`; computes all rows, in the dtype of the inputs."""
        return torch.nn.functional.linear(inputs, a)

    def expand(self, output: torch.Tensor, low: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
        """See `Operators.expand`."""
        output.addcmul_(torch.nn.functional.linear(low, b), rows)


def make_operators(kernels: str, device: torch.device) -> Operators:
    """Return the operators that a server was started with; raises `OptionError` when they cannot run here."""
    check_kernels(kernels, device.type)
    if kernels != TRITON:
        return TorchOperators()
    from nemotron_diffusion_plugin.serving.triton_operators import TritonOperators

    return TritonOperators()
