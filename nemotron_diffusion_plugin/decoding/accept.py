"""Which drafts a verify forward accepts (model description, 3.3)."""

import torch


def accept_longest_prefix(
    drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor
) -> torch.Tensor:
    """Return how many leading drafts agree with the causal picks, int64 `[R]`.

    Args:
        drafts: int64 `[R, K]`, the drafts after the seed.
        verified: int64 `[R, K + 1]`, the causal pick of every row of the block; pick i follows draft i - 1.
        num_drafts: int64 `[R]`, how many of the K drafts a row has.

    The tokens to emit are `verified[:, : accepted + 1]`: the accepted drafts and one bonus or correction.
    """
    column = torch.arange(drafts.shape[1], device=drafts.device)
    agrees = (drafts == verified[:, :-1]) & (column < num_drafts[:, None])
    return agrees.cumprod(dim=1).sum(dim=1)
