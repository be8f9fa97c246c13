"""Token trees of SGLang's EAGLE speculation.

A request has `n` rows: row 0 is its last token, rows 1 … n-1 are drafts. A row's next token is its first child,
its next sibling the following child of its parent; -1 is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

FULL_MASK = 0  # the mask also covers the prefix; otherwise it is [batch, n, n]


def build_tree_kernel_efficient_cpu(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """Lay out the selected drafts as a tree: links, positions, and which rows each row sees."""
    batch, n = verified_seq_len.numel(), draft_token_num
    chosen = selected_index.reshape(batch, n - 1).tolist()
    parents = parent_list.reshape(batch, -1).tolist()
    mask, cell = tree_mask.view(-1), 0
    for b, length in enumerate(verified_seq_len.tolist()):
        parent = [-1] + [_parent_row(draft, chosen[b], parents[b], topk) for draft in chosen[b]]
        first_child, sibling = _links(parent)
        retrive_index.view(batch, n)[b] = torch.arange(b * n, (b + 1) * n)
        retrive_next_token.view(batch, n)[b] = torch.tensor(first_child)
        retrive_next_sibling.view(batch, n)[b] = torch.tensor(sibling)
        prefix = length if int(tree_mask_mode) == FULL_MASK else 0
        for row in range(n):
            path = _path(row, parent)
            positions.view(batch, n)[b, row] = length + len(path) - 1
            seen = mask[cell + prefix : cell + prefix + n]
            seen.zero_()
            seen[path] = 1
            cell += prefix + n


def _parent_row(draft: int, chosen: list[int], parents: list[int], topk: int) -> int:
    """Return the row of a draft's parent, -1 where that one was not selected.

    Drafts are numbered through, `topk` for each expanded token; the first `topk` are children of the root.
    """
    expanded = draft // topk
    if expanded == 0:
        return 0
    return chosen.index(parents[expanded]) + 1 if parents[expanded] in chosen else -1


def _links(parent: list[int]) -> tuple[list[int], list[int]]:
    n = len(parent)
    first_child, sibling = [-1] * n, [-1] * n
    for row in range(n - 1, 0, -1):
        if parent[row] >= 0:
            sibling[row] = first_child[parent[row]]
            first_child[parent[row]] = row
    return first_child, sibling


def _path(row: int, parent: list[int]) -> list[int]:
    """Return the root and the rows from `row` up to it."""
    path = [0]
    while row > 0:
        path.append(row)
        row = parent[row]
    return path


def verify_tree_greedy_cpu(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walk each tree along the drafts that the target model picks too.

    `accept_index` gets the accepted rows, `accept_token_num` the number of accepted drafts, and `predicts`, at
    each accepted row, the target's token that follows it.
    """
    batch, n = candidates.shape
    drafts, rows = candidates.tolist(), retrive_index.reshape(batch, n).tolist()
    child, sibling = retrive_next_token.tolist(), retrive_next_sibling.tolist()
    picked = target_predict.reshape(batch, n).tolist()
    for b in range(batch):
        row, accepted = 0, 0
        while True:
            accept_index[b, accepted] = rows[b][row]
            predicts[rows[b][row]] = picked[b][row]
            following = child[b][row]
            while following != -1 and drafts[b][following] != picked[b][row]:
                following = sibling[b][following]
            if following == -1 or accepted + 1 == accept_index.shape[1]:
                break
            row, accepted = following, accepted + 1
        accept_token_num[b] = accepted
