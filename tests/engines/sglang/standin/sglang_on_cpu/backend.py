"""The attention backend `cpu_ref`, and its form for draft models that run several steps."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from torch import Tensor

from sglang_on_cpu.attention import Group, Visibility, attend, plan


class ReferenceBackend(AttentionBackend):
    """Decode, extend and TARGET_VERIFY for decoder models with one KV pool.

    Under TARGET_VERIFY a request has `spec_info.draft_token_num` rows, or as many as
    `spec_info.ragged_verify_layout` says, and layers of type ENCODER_ONLY see all of them.
    """

    needs_cpu_seq_lens = (
        False  # as FlashAttention: a decode step does not wait to learn the lengths on the host
    )

    def __init__(self, runner: Any) -> None:
        super().__init__()
        if runner.use_mla_backend or isinstance(runner.token_to_kv_pool, SWAKVPool):
            raise NotImplementedError(
                "cpu_ref serves models with one ordinary KV pool. For latent attention or a sliding-window pool "
                "take --attention-backend torch_native; a sliding window alone works with "
                "--disable-hybrid-swa-memory"
            )
        self.req_to_token_pool = runner.req_to_token_pool
        self.token_to_kv_pool = runner.token_to_kv_pool
        self.forward_metadata: list[Group] = []

    def init_forward_metadata(self, forward_batch: Any) -> None:
        self.forward_metadata = plan(*self._layout(forward_batch))

    def _layout(self, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return slot table, lengths, widths and token trees of the batch, as `plan` takes them."""
        table = self.req_to_token_pool.req_to_token[batch.req_pool_indices]
        if batch.forward_mode.is_decode_or_idle():
            return table, batch.seq_lens, torch.ones_like(batch.seq_lens), None
        if not batch.forward_mode.is_target_verify():
            return table, batch.seq_lens, batch.extend_seq_lens, None
        info = batch.spec_info
        layout = getattr(info, "ragged_verify_layout", None)
        if layout is not None:
            return table, batch.seq_lens + layout.verify_lens, layout.verify_lens, None
        rows = int(info.draft_token_num)
        widths = torch.full_like(batch.seq_lens, rows)
        tree = None
        if getattr(info, "tree_topk", 1) != 1 and info.custom_mask is not None and info.custom_mask.numel():
            tree = info.custom_mask.view(-1)[: len(widths) * rows**2].view(-1, rows, rows)
        return table, batch.seq_lens + rows, widths, tree

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
        sinks: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return [tokens, heads * value size]; writes K and V first, unless another layer has written them."""
        if layer.is_cross_attention or sinks is not None or layer.attn_type not in _VISIBLE:
            raise NotImplementedError(
                f"cpu_ref has no cross-attention, attention sinks or {layer.attn_type}; "
                "take --attention-backend torch_native"
            )
        if save_kv_cache and k is not None and v is not None:
            place = KVWriteLoc(forward_batch.out_cache_loc, None)
            self.token_to_kv_pool.set_kv_buffer(layer, place, k, v)
        output = attend(
            q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim),
            self.token_to_kv_pool.get_key_buffer(layer.layer_id),
            self.token_to_kv_pool.get_value_buffer(layer.layer_id),
            self.forward_metadata,
            Visibility(_VISIBLE[layer.attn_type], layer.sliding_window_size),
            layer.scaling,
            layer.logit_cap,
        )
        return output.view(-1, layer.tp_q_head_num * layer.v_head_dim)

    forward_decode = forward_extend

    def support_triton(self) -> bool:
        return False


_VISIBLE = {AttentionType.DECODER: True, AttentionType.ENCODER_ONLY: False}


class MultiStepDraftBackend:
    """One `ReferenceBackend` for each step of a draft model that follows `topk` branches for each request."""

    def __init__(self, runner: Any, topk: int, speculative_num_steps: int) -> None:
        self.topk, self.speculative_num_steps = topk, speculative_num_steps
        self.attn_backends = [ReferenceBackend(runner) for _ in range(speculative_num_steps - 1)]

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Plan all steps: in step s a branch sees its request's tokens and its own drafts 0 … s."""
        table = branch_table(
            self.attn_backends[0].req_to_token_pool.req_to_token[forward_batch.req_pool_indices],
            forward_batch.seq_lens,
            self.topk,
            self.speculative_num_steps,
        )
        lengths = forward_batch.seq_lens.repeat_interleave(self.topk)
        for step, backend in enumerate(self.attn_backends):
            backend.forward_metadata = plan(table, lengths + step + 1, torch.ones_like(lengths))


def branch_table(table: Tensor, lengths: Tensor, topk: int, steps: int) -> Tensor:
    """Return [requests * topk, …]: the slots of each request with those of one branch's drafts behind its tokens.

    In `table` the drafts of branch t take the positions `length + t * steps …` of the request.
    """
    branches = table.repeat_interleave(topk, 0)
    first = lengths.to(torch.int64).repeat_interleave(topk)[:, None]
    branch = torch.arange(topk).repeat(len(lengths))[:, None]
    step, last = torch.arange(steps), table.shape[1] - 1
    drafts = branches.gather(1, (first + branch * steps + step).clamp(max=last))
    return branches.scatter(1, (first + step).clamp(max=last), drafts)
