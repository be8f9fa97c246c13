"""Which drafts a verify forward accepts (docs/model.md, 3.3), greedily and when sampling."""

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


def accept_sampled(
    drafts: torch.Tensor, probabilities: torch.Tensor, num_drafts: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    """Return how many leading drafts are accepted when tokens are sampled, int64 `[R]`.

    Draft k is accepted with probability p_k(draft k). Speculative sampling (Leviathan et al., 2023) accepts with
    min(1, p / q); a draft that is the most likely token of its row was certain when it was drawn, so q is one-hot,
    q = 1, and the rule is p itself. With the token after the last accepted draft drawn from `correction_weights` the
    output is distributed exactly as p: token x comes with p(x) by acceptance if it is the draft, and otherwise with
    (1 - p(draft)) * p(x) / (1 - p(draft)) = p(x).

    Args:
        drafts: int64 `[R, K]`, the drafts after the seed, chosen without chance.
        probabilities: floating point `[R, K + 1, V]`, the causal rows' distributions as tokens are sampled from them
            (after temperature, top-p and the like); row k follows draft k - 1.
        num_drafts: int64 `[R]`, how many of the K drafts a row has.
        uniforms: floating point `[R, K]` in (0, 1), independent.
    """
    column = torch.arange(drafts.shape[1], device=drafts.device)
    likely = probabilities[:, :-1].gather(2, drafts[:, :, None]).squeeze(2)
    taken = (uniforms < likely) & (column < num_drafts[:, None])
    return taken.cumprod(dim=1).sum(dim=1)


def correction_weights(probabilities_row: torch.Tensor, rejected_draft: torch.Tensor) -> torch.Tensor:
    """Return what to sample the token after the accepted drafts from, unnormalised, `[R, V]` like the input.

    The residual max(p - q, 0) of speculative sampling, up to scale: for a one-hot q it is p without the rejected
    draft. A row of which nothing would be left, by rounding, stays as it is.

    Args:
        probabilities_row: floating point `[R, V]`, the distribution at the first draft that was not accepted.
        rejected_draft: int64 `[R]`, that draft, or -1 where all were accepted: the bonus is drawn from p.
    """
    column = rejected_draft.clamp(min=0)[:, None]
    kept = torch.where(rejected_draft[:, None] < 0, probabilities_row.gather(1, column), 0.0)
    weights = probabilities_row.scatter(1, column, kept.to(probabilities_row.dtype))
    return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, probabilities_row)
