"""The stand-in for SGLang's kernels: slots and token trees."""

from __future__ import annotations

import pytest
import sgl_kernel
import torch
from sgl_kernel.speculative import reconstruct_indices_from_tree_mask

REQUESTS = torch.tensor([3, 1])
START, END = torch.tensor([2, 0]), torch.tensor([4, 3])


def test_slots_are_written_and_read_by_position() -> None:
    table = torch.full((5, 8), -1, dtype=torch.int32)
    slots = torch.tensor([10, 11, 12, 13, 14])
    sgl_kernel.assign_req_to_token_pool_cpu(REQUESTS, table, START, END, slots, 8)
    assert table[3].tolist() == [-1, -1, 10, 11, -1, -1, -1, -1]
    assert table[1].tolist() == [12, 13, 14, -1, -1, -1, -1, -1]
    assert (table[[0, 2, 4]] == -1).all()
    read = torch.full((7,), -2)
    sgl_kernel.assign_extend_cache_locs_cpu(REQUESTS, table, START, END, read, 8)
    assert read.tolist() == [10, 11, 12, 13, 14, -2, -2]


def test_slots_of_drafts_follow_the_last_token() -> None:
    table, read = torch.arange(40).view(5, 8), torch.zeros(8, dtype=torch.int64)
    sgl_kernel.assign_draft_cache_locs_contiguous_cpu(REQUESTS, table, torch.tensor([4, 2]), read, 8, 2, 2)
    assert read.tolist() == [28, 29, 30, 31, 10, 11, 12, 13]


def test_what_was_accepted_is_gathered() -> None:
    bonus = torch.zeros(2, dtype=torch.int32)
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    sgl_kernel.fill_bonus_tokens_cpu(tokens, torch.tensor([2, 3]), bonus, 3)
    assert bonus.tolist() == [6, 10]
    slots = torch.full((4,), -1)
    rows = torch.tensor([[0, 2, -1], [4, -1, -1]])
    sgl_kernel.fill_accept_out_cache_loc_cpu(rows, torch.arange(10, 16), slots)
    assert slots.tolist() == [10, 12, 14, -1]


def test_kv_is_moved_even_where_sources_and_targets_overlap() -> None:
    buffers = [torch.arange(12.0).view(6, 2), torch.arange(18).view(6, 3)]
    before = [buffer.clone() for buffer in buffers]
    addresses = torch.tensor([buffer.data_ptr() for buffer in buffers])
    bytes_per_slot = torch.tensor([buffer[0].nbytes for buffer in buffers])
    target, source = torch.tensor([1, 2, 3]), torch.tensor([2, 3, 1])
    sgl_kernel.copy_all_layer_kv_cache_cpu(addresses, bytes_per_slot, target, source)
    for buffer, old in zip(buffers, before, strict=True):
        assert torch.equal(buffer, old[[0, 2, 3, 1, 4, 5]])


def test_tokens_are_shifted_per_request() -> None:
    tokens = torch.tensor([1, 2, 3, 4, 5])
    new = torch.tensor([[8], [0], [9]])
    sgl_kernel.rotate_input_ids_cpu(tokens, torch.tensor([0, 3, 3]), torch.tensor([3, 0, 2]), new)
    assert tokens.tolist() == [2, 3, 8, 5, 9]


class Tree:
    """Two requests with the tree 0 → (1 → 3, 2); the mask covers drafts only."""

    NEXT, SIBLING, DEPTH = [1, 3, -1, -1], [-1, 2, -1, -1], [0, 1, 1, 2]
    MASK = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]).bool()

    def __init__(self) -> None:
        self.mask = torch.ones(2 * 16, dtype=torch.bool)
        self.positions = torch.zeros(8, dtype=torch.int64)
        self.rows, self.next, self.sibling = (torch.zeros(2, 4, dtype=torch.int64) for _ in range(3))

    def check(self, lengths: list[int]) -> None:
        assert self.positions.tolist() == [length + depth for length in lengths for depth in self.DEPTH]
        assert self.rows.flatten().tolist() == list(range(8))
        assert self.next.tolist() == [self.NEXT] * 2
        assert self.sibling.tolist() == [self.SIBLING] * 2


def test_a_tree_is_built_from_the_selected_drafts() -> None:
    tree = Tree()
    # Two branches a step: drafts 0 and 1 follow the root, 2 and 3 the draft `parents[1]`, here draft 0.
    selected, parents = torch.tensor([[0, 1, 2]] * 2), torch.tensor([[-1, 0, 1]] * 2)
    links = (tree.rows, tree.next, tree.sibling)
    sgl_kernel.build_tree_kernel_efficient_cpu(
        parents, selected, torch.tensor([5, 9]), tree.mask, tree.positions, *links, 2, 2, 4, 1
    )
    tree.check([5, 9])
    assert torch.equal(tree.mask.view(2, 4, 4), Tree.MASK.expand(2, 4, 4))


def test_a_full_mask_leaves_the_prefix_visible() -> None:
    tree = Tree()
    mask = torch.ones(4 * (3 + 4) + 4 * (1 + 4), dtype=torch.bool)
    selected, parents = torch.tensor([[0, 1, 2]] * 2), torch.tensor([[-1, 0, 1]] * 2)
    links = (tree.rows, tree.next, tree.sibling)
    sgl_kernel.build_tree_kernel_efficient_cpu(
        parents, selected, torch.tensor([3, 1]), mask, tree.positions, *links, 2, 2, 4, 0
    )
    first, second = mask[:28].view(4, 7), mask[28:].view(4, 5)
    assert first[:, :3].all()
    assert second[:, :1].all()
    assert torch.equal(first[:, 3:], Tree.MASK)
    assert torch.equal(second[:, 1:], Tree.MASK)


def test_a_tree_is_read_from_its_mask() -> None:
    tree = Tree()
    mask = Tree.MASK.expand(2, 4, 4).reshape(-1)
    links = (tree.rows, tree.next, tree.sibling)
    reconstruct_indices_from_tree_mask(mask, torch.tensor([5, 9]), tree.positions, *links, 2, 4)
    tree.check([5, 9])


@pytest.mark.parametrize(
    ("picked", "accepted", "predicted"),
    [
        ([7, 9, 4, 5], [0, 1, 3], [7, 9, 0, 5]),
        ([6, 0, 4, 5], [0, 2], [6, 0, 4, 0]),
        ([1, 2, 3, 4], [0], [1, 0, 0, 0]),
    ],
)
def test_a_tree_is_accepted_along_the_target_s_picks(
    picked: list[int], accepted: list[int], predicted: list[int]
) -> None:
    predicts = torch.zeros(4, dtype=torch.int64)
    rows, number = torch.full((1, 3), -1), torch.zeros(1, dtype=torch.int64)
    sgl_kernel.verify_tree_greedy_cpu(
        predicts=predicts,
        accept_index=rows,
        accept_token_num=number,
        candidates=torch.tensor([[2, 7, 6, 9]]),
        retrive_index=torch.arange(4)[None],
        retrive_next_token=torch.tensor([Tree.NEXT]),
        retrive_next_sibling=torch.tensor([Tree.SIBLING]),
        target_predict=torch.tensor([picked]),
    )
    assert rows[0].tolist() == accepted + [-1] * (3 - len(accepted))
    assert number.item() == len(accepted) - 1
    assert predicts.tolist() == predicted
