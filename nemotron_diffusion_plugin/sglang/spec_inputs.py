"""What SGLang's batches carry for us: the seeds between two steps, and how the tokens of one forward see each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
from sglang.srt.speculative.spec_info import SpecInput, SpecInputType

from nemotron_diffusion_plugin.serving.overrides import checked_overrides


@checked_overrides
@dataclass
class SeedRelay(SpecInput):
    """State of a batch between two engine steps: each request's last token, which has no KV yet.

    Under the overlap schedule the tensors travel through SGLang's future map and `future_indices` names their rows.

    Attributes:
        bonus_tokens: int64 `[R]`, the seeds.
        new_seq_lens: int64 `[R]`, the position of each seed: tokens with KV.
    """

    bonus_tokens: torch.Tensor
    new_seq_lens: torch.Tensor
    future_indices: torch.Tensor | None = None
    # Eagle's relay reads these.
    topk_p: ClassVar[None] = None
    topk_index: ClassVar[None] = None
    hidden_states: ClassVar[None] = None
    dsa_topk_indices: ClassVar[None] = None

    def __post_init__(self) -> None:
        # The enumeration is closed; nothing but UNO's own code reads this member.
        super().__init__(SpecInputType.UNO_STATE)
        self.num_tokens_per_req = 1
        self.num_tokens_for_logprob_per_req = 1

    def filter_batch(self, new_indices: torch.Tensor, new_indices_cpu: Any = None, **keywords: Any) -> None:
        """Keep the requests `new_indices`."""
        if self.future_indices is not None:
            self.future_indices = self.future_indices[new_indices]
            return
        self.bonus_tokens = self.bonus_tokens[new_indices]
        self.new_seq_lens = self.new_seq_lens[new_indices]

    def merge_batch(self, other: SeedRelay) -> None:
        """Append the requests of another batch."""
        if self.future_indices is not None:
            self.future_indices = torch.cat((self.future_indices, other.future_indices))
            return
        self.bonus_tokens = torch.cat((self.bonus_tokens, other.bonus_tokens))
        self.new_seq_lens = torch.cat((self.new_seq_lens, other.new_seq_lens))


@checked_overrides
@dataclass
class BlockPass(SpecInput):
    """One forward over blocks: its rows, and whether they see each other in both directions.

    Attributes:
        positions: int64 `[T]`.
        draft_token_num: rows of the widest block; of every block without a `ragged_verify_layout`.
        bidirectional: whether the rows of a block see each other, else only what comes before them.
        lora_rows: `[T, 1]`, the model's dtype, 1 where the drafter LoRA applies; None leaves it off.
        ragged_verify_layout: SGLang's description of blocks of unequal width.
    """

    positions: torch.Tensor
    draft_token_num: int
    bidirectional: bool
    lora_rows: torch.Tensor | None = None
    ragged_verify_layout: Any = None
    tree_topk: int = 1
    custom_mask: torch.Tensor | None = None
    capture_hidden_mode: CaptureHiddenMode = CaptureHiddenMode.NULL
    hidden_states: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__(SpecInputType.UNO_VERIFY)
        self.num_tokens_per_req = self.draft_token_num
        self.num_tokens_for_logprob_per_req = self.draft_token_num

    def generate_attn_arg_prefill(
        self,
        *,
        req_pool_indices: torch.Tensor,
        paged_kernel_lens: torch.Tensor,
        paged_kernel_lens_sum: int,
        translator: Any,
        plan: Any,
        kv_start_idx: torch.Tensor | None = None,
        kv_indices_buf: torch.Tensor | None = None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """What FlashInfer plans a forward over blocks of one width by.

        `paged_kernel_lens`, `[R]`, are the tokens before the blocks and `paged_kernel_lens_sum` their sum. Returns the
        KV slots, the ends of each request's slots, the ends of each request's rows, and no mask: causal or not is the
        attention layer's.
        """
        size, width = req_pool_indices.numel(), self.draft_token_num
        device = req_pool_indices.device
        rows = torch.arange(0, (size + 1) * width, step=width, dtype=torch.int32, device=device)
        lengths = paged_kernel_lens + width
        ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        slots = kv_indices_buf
        if slots is None:
            slots = torch.empty(paged_kernel_lens_sum + width * size, dtype=torch.int32, device=device)
        translator.pack_read_stream(
            plan,
            req_pool_indices=req_pool_indices,
            seq_lens=lengths,
            indptr=ends,
            out=slots,
            kv_start_idx=kv_start_idx,
            **keywords,
        )
        return slots, ends, rows, None
