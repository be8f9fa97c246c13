"""Acceptance in plain torch."""

import torch

from .api import PAD, Accepted


def accept_reference(
    drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor, lengths: torch.Tensor
) -> Accepted:
    """Return what is accepted of drafts d_1 ... d_n given the causal picks a_0 ... a_n of [seed, d_1, ... d_n]:

        m = the number of leading i with a_i = d_{i+1}, i < n
        emitted a_0 ... a_m; next seed a_m; length c + m + 1,

    and nothing of a row with n < 0.
    """
    column = torch.arange(verified.shape[1], device=drafts.device)
    agrees = (drafts == verified[:, :-1]) & (column[:-1] < num_drafts[:, None])
    accepted = agrees.cumprod(dim=1).sum(dim=1)
    is_idle = num_drafts < 0
    is_emitted = (column <= accepted[:, None]) & ~is_idle[:, None]
    seeds = verified.long().gather(1, accepted[:, None])[:, 0]
    return Accepted(
        accepted,
        torch.where(is_emitted, verified.long(), PAD),
        torch.where(is_idle, PAD, seeds),
        torch.where(is_idle, lengths.long(), lengths.long() + accepted + 1),
    )
