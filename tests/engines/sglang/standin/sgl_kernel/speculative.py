"""Token trees of SGLang's n-gram speculation, which come as a mask; see `trees` for the words."""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruct_indices_from_tree_mask(
    tree_mask: Tensor,
    verified_seq_len: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Read positions and links of every tree from `tree_mask` [batch, n, n], which marks each row's ancestors."""
    shape = (batch_size, draft_token_num)
    row = torch.arange(draft_token_num)
    marked = tree_mask.view(-1)[: batch_size * draft_token_num**2].view(*shape, draft_token_num).bool()
    is_ancestor = marked & (row < row[:, None])
    positions.view(shape).copy_(is_ancestor.sum(-1) + verified_seq_len.view(-1, 1))
    retrive_index.view(shape).copy_(torch.arange(batch_size * draft_token_num).view(shape))
    parent = torch.where(is_ancestor, row, -1).amax(-1)
    is_child = parent[:, None, :] == row[:, None]
    retrive_next_token.view(shape).copy_(_first(is_child, row))
    is_later_sibling = (parent[:, :, None] == parent[:, None, :]) & (row > row[:, None])
    retrive_next_sibling.view(shape).copy_(_first(is_later_sibling, row))


def _first(chosen: Tensor, row: Tensor) -> Tensor:
    """Return the first chosen row along the last dimension, -1 where there is none."""
    return torch.where(chosen.any(-1), chosen.to(torch.int8).argmax(-1), -1)
