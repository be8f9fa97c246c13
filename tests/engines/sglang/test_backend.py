"""`cpu_ref` with SGLang's kinds of forward: what each one asks of `attend`, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang_on_cpu.attention import Visibility, attend, plan
from sglang_on_cpu.backend import MultiStepDraftBackend, ReferenceBackend, branch_table
from torch import Tensor

pytestmark = pytest.mark.engine
HEADS, KV_HEADS, SIZE, SLOTS = 4, 2, 8, 120


class Pool:
    """One layer of KV, as far as an attention backend uses it."""

    def __init__(self) -> None:
        self.keys, self.values = torch.randn(SLOTS, KV_HEADS, SIZE), torch.randn(SLOTS, KV_HEADS, SIZE)

    def get_key_buffer(self, layer_id: int) -> Tensor:
        return self.keys

    def get_value_buffer(self, layer_id: int) -> Tensor:
        return self.values

    def set_kv_buffer(self, layer: Any, place: Any, k: Tensor, v: Tensor) -> None:
        self.keys[place.loc], self.values[place.loc] = k, v


@pytest.fixture
def runner() -> SimpleNamespace:
    torch.manual_seed(0)
    table = torch.stack([torch.randperm(SLOTS)[:60] for _ in range(4)]).int()
    pool = SimpleNamespace(req_to_token=table)
    return SimpleNamespace(use_mla_backend=False, token_to_kv_pool=Pool(), req_to_token_pool=pool)


def layer(**changes: Any) -> SimpleNamespace:
    values = {
        "layer_id": 0,
        "tp_q_head_num": HEADS,
        "qk_head_dim": SIZE,
        "v_head_dim": SIZE,
        "scaling": 0.3,
        "logit_cap": 0.0,
        "sliding_window_size": -1,
        "is_cross_attention": False,
        "attn_type": AttentionType.DECODER,
    }
    return SimpleNamespace(**{**values, **changes})


def batch(mode: ForwardMode, lengths: list[int], **fields: Any) -> SimpleNamespace:
    rows = torch.tensor([2, 0, 3])[: len(lengths)]
    return SimpleNamespace(
        forward_mode=mode,
        seq_lens=torch.tensor(lengths),
        req_pool_indices=rows,
        **{"spec_info": None, **fields},
    )


def check(
    runner: SimpleNamespace,
    fb: SimpleNamespace,
    lengths: list[int],
    widths: list[int],
    tree: Tensor | None = None,
    **changes: Any,
) -> None:
    """Run a layer and compare with attention over `widths` new tokens of `lengths` after their KV is written."""
    total, table = sum(widths), runner.req_to_token_pool.req_to_token[fb.req_pool_indices].long()
    q = torch.randn(total, HEADS * SIZE)
    k, v = torch.randn(total, KV_HEADS, SIZE), torch.randn(total, KV_HEADS, SIZE)
    places = [table[r, n - w : n] for r, (n, w) in enumerate(zip(lengths, widths, strict=True))]
    fb.out_cache_loc = torch.cat(places)
    backend, pool = ReferenceBackend(runner), runner.token_to_kv_pool
    backend.init_forward_metadata(fb)
    output = backend.forward_extend(q, k, v, layer(**changes), fb)
    assert torch.equal(pool.keys[fb.out_cache_loc], k)
    assert torch.equal(pool.values[fb.out_cache_loc], v)
    groups = plan(table, torch.tensor(lengths), torch.tensor(widths), tree)
    visibility = Visibility(changes.get("attn_type") is not AttentionType.ENCODER_ONLY)
    expected = attend(q.view(total, HEADS, SIZE), pool.keys, pool.values, groups, visibility, 0.3)
    assert torch.equal(output, expected.view(total, -1))


def test_decode(runner: SimpleNamespace) -> None:
    check(runner, batch(ForwardMode.DECODE, [7, 30, 1]), [7, 30, 1], [1, 1, 1])


def test_extend(runner: SimpleNamespace) -> None:
    widths = torch.tensor([7, 4], dtype=torch.int32)
    check(runner, batch(ForwardMode.EXTEND, [7, 30], extend_seq_lens=widths), [7, 30], [7, 4])


@pytest.mark.parametrize("kind", [AttentionType.DECODER, AttentionType.ENCODER_ONLY])
def test_verify_a_chain(runner: SimpleNamespace, kind: AttentionType) -> None:
    info = SimpleNamespace(draft_token_num=4, tree_topk=1, custom_mask=None, ragged_verify_layout=None)
    fb = batch(ForwardMode.TARGET_VERIFY, [7, 30], spec_info=info)
    check(runner, fb, [11, 34], [4, 4], attn_type=kind)


@pytest.mark.parametrize("kind", [AttentionType.DECODER, AttentionType.ENCODER_ONLY])
def test_verify_rows_of_different_widths(runner: SimpleNamespace, kind: AttentionType) -> None:
    layout = SimpleNamespace(verify_lens=torch.tensor([4, 1, 9], dtype=torch.int32))
    info = SimpleNamespace(draft_token_num=9, tree_topk=1, custom_mask=None, ragged_verify_layout=layout)
    fb = batch(ForwardMode.TARGET_VERIFY, [7, 30, 2], spec_info=info)
    check(runner, fb, [11, 31, 11], [4, 1, 9], attn_type=kind)


def test_verify_trees(runner: SimpleNamespace) -> None:
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool().expand(2, 3, 3)
    info = SimpleNamespace(draft_token_num=3, tree_topk=2, custom_mask=tree.flatten())
    check(runner, batch(ForwardMode.TARGET_VERIFY, [7, 30], spec_info=info), [10, 33], [3, 3], tree=tree)


def test_an_empty_batch_needs_no_plan(runner: SimpleNamespace) -> None:
    backend = ReferenceBackend(runner)
    backend.init_forward_metadata(batch(ForwardMode.IDLE, []))
    assert backend.forward_metadata == []


def test_a_branch_sees_its_own_drafts() -> None:
    table = torch.arange(24).view(2, 12)
    expected = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6], [12, 13, 14, 15, 16], [12, 13, 14, 17, 18]]
    assert branch_table(table, torch.tensor([3, 3]), 2, 2)[:, :5].tolist() == expected


def test_each_draft_step_sees_one_more_draft(runner: SimpleNamespace) -> None:
    backend = MultiStepDraftBackend(runner, 2, 3)
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [5, 9]))
    lengths = [each.forward_metadata[0].lengths.tolist() for each in backend.attn_backends]
    assert lengths == [[6, 6, 10, 10], [7, 7, 11, 11]]


def test_what_it_cannot_do_is_refused(runner: SimpleNamespace) -> None:
    backend, q = ReferenceBackend(runner), torch.zeros(0, HEADS * SIZE)
    for changes, sinks in (({"is_cross_attention": True}, None), ({}, torch.zeros(HEADS))):
        with pytest.raises(NotImplementedError, match="torch_native"):
            backend.forward_extend(
                q, None, None, layer(**changes), batch(ForwardMode.EXTEND, []), sinks=sinks
            )
    runner.use_mla_backend = True
    with pytest.raises(NotImplementedError, match="latent attention"):
        ReferenceBackend(runner)
