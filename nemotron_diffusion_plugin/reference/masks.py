"""Who sees whom in a forward: bool `[T, S]` with S = cached + new (docs/model.md, 2)."""

import torch


def causal(new: int, cached: int = 0) -> torch.Tensor:
    """Every new position sees the cached ones and those up to itself: bool `[new, cached + new]`."""
    return torch.ones(new, cached + new, dtype=torch.bool).tril(diagonal=cached)


def bidirectional(new: int, cached: int = 0) -> torch.Tensor:
    """Every new position sees everything: bool `[new, cached + new]`."""
    return torch.ones(new, cached + new, dtype=torch.bool)


def quadratic(drafts: int, cached: int) -> torch.Tensor:
    """The mask of quadratic self-speculation (docs/model.md, 3.4), bool `[n * (n + 1), cached + n * (n + 1)]`.

    Group j holds draft j and n masks. A draft sees the drafts of the groups up to its own; the masks of a
    group see those drafts and their whole group; all see the cached positions.
    """
    group = torch.arange(drafts).repeat_interleave(drafts + 1)
    is_draft = torch.arange(drafts * (drafts + 1)) % (drafts + 1) == 0
    earlier_draft = is_draft[None, :] & (group[None, :] <= group[:, None])
    own_group = ~is_draft[:, None] & (group[None, :] == group[:, None])
    prefix = torch.ones(drafts * (drafts + 1), cached, dtype=torch.bool)
    return torch.cat([prefix, earlier_draft | own_group], dim=1)


def prompt_and_masks(prompt: int, masks: int) -> torch.Tensor:
    """A causal prompt followed by masks that see everything: bool `[prompt + masks, prompt + masks]`."""
    visible = causal(prompt + masks)
    visible[prompt:] = True
    return visible
