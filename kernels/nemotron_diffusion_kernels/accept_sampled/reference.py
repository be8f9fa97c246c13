"""Rejection sampling in plain torch."""

import torch

from ..accept.api import PAD, Accepted
from ..noise import ACCEPTANCE
from ..noise.reference import gumbel_reference, uniform_reference
from .api import BlockLogits


def accept_sampled_reference(
    drafts: torch.Tensor,
    num_drafts: torch.Tensor,
    lengths: torch.Tensor,
    verify: BlockLogits,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    draft: BlockLogits | None,
    draft_temperature: torch.Tensor,
    mask_token_id: int | None,
) -> Accepted:
    """Return what is accepted of drafts d_1 ... d_n given the rows P_0 ... P_n of logits and Q_1 ... Q_n. With
    p_i = softmax(P_i / T), q_i = softmax(Q_i / T_q) without the mask id, or one-hot at d_i, u the noise of
    `RowNoise(seed, c + i + 1, step)`,

        d_{i+1} is accepted     if u_ACCEPTANCE q_{i+1}(d_{i+1}) < p_i(d_{i+1}) and all before it are
        m                       = the number of accepted drafts
        x_m                     = argmax_t ln w(t) - ln(-ln u_t)
        w                       = max(p_m - q_{m+1}, 0) where m < n, or p_m where m = n or all of that is 0
        emitted d_1 ... d_m x_m; next seed x_m; length c + m + 1,

    in float64. At T = 0, p_i is one-hot at the lowest most likely id, and x_m is that id.
    """
    rows, width = drafts.shape
    drafts, vocabulary = drafts.long(), verify.logits.shape[1]
    count = num_drafts.long().clamp(max=width)
    temperature, draft_temperature = temperature.double(), draft_temperature.double()
    column = torch.arange(width + 1, device=drafts.device)
    is_greedy = temperature == 0

    scores = _rows(verify, column, count[:, None] >= column)  # [R, K + 1, V]
    first = (scores == scores.amax(dim=2, keepdim=True)).int().argmax(dim=2)
    p = _softmax(scores, temperature)
    q = torch.zeros_like(p[:, :width])
    if draft is not None:
        drawn_from = _rows(
            draft, column[:-1], (column[:-1] < count[:, None]) & (draft_temperature > 0)[:, None]
        )
        if mask_token_id is not None:
            drawn_from[..., mask_token_id] = -torch.inf
        q = _softmax(drawn_from, draft_temperature)
    is_id = (drafts >= 0) & (drafts < vocabulary)
    token = drafts.clamp(0, vocabulary - 1)[:, :, None]
    one_hot = torch.zeros_like(q).scatter(2, token, is_id[:, :, None].to(q.dtype))
    is_one_hot = draft_temperature == 0 if draft is not None else torch.ones_like(is_greedy)
    q = torch.where(is_one_hot[:, None, None], one_hot, q)

    position = lengths.long()[:, None] + 1 + column
    chance = uniform_reference(
        seeds[:, None], position, steps[:, None], torch.full_like(position, ACCEPTANCE)
    )
    agrees = chance[:, :width] * q.gather(2, token)[..., 0] < p[:, :width].gather(2, token)[..., 0]
    agrees = torch.where(is_greedy[:, None], drafts == first[:, :width], agrees) & is_id
    agrees = agrees & (column[:-1] < count[:, None])
    accepted = agrees.long().cumprod(dim=1).sum(dim=1)

    at = torch.arange(rows, device=drafts.device)
    final = p[at, accepted]
    if width:
        is_rejected = accepted < count
        residual = (final - q[at, accepted.clamp(max=width - 1)]).clamp(min=0)
        is_empty = ~(residual > 0).any(dim=1)
        final = torch.where((is_rejected & ~is_empty)[:, None], residual, final)
    gumbel = gumbel_reference(
        uniform_reference(
            seeds[:, None],
            position[at, accepted][:, None],
            steps[:, None],
            torch.arange(vocabulary, device=drafts.device),
        )
    )
    final = final.nan_to_num(nan=0.0)
    token = torch.where(is_greedy, first[at, accepted], (final.log() + gumbel).argmax(dim=1))

    is_idle = num_drafts < 0
    emitted = torch.where(
        column == accepted[:, None], token[:, None], torch.nn.functional.pad(drafts, (0, 1))
    )
    is_emitted = (column <= accepted[:, None]) & ~is_idle[:, None]
    return Accepted(
        accepted,
        torch.where(is_emitted, emitted, PAD),
        torch.where(is_idle, PAD, token),
        lengths.long() + torch.where(is_idle, 0, accepted + 1),
    )


def _rows(block: BlockLogits, column: torch.Tensor, is_row: torch.Tensor) -> torch.Tensor:
    """The rows of each request, float64 `[R, C, V]`, NaN as -inf; rows it does not have are 0."""
    vocabulary = block.logits.shape[1]
    if block.logits.shape[0] == 0:
        return block.logits.new_zeros((*is_row.shape, vocabulary), dtype=torch.float64)
    index = torch.where(is_row, block.first_rows.long()[:, None] + column, 0)
    values = block.logits[index].double()
    return values.masked_fill(values.isnan(), -torch.inf).masked_fill(~is_row[:, :, None], 0.0)


def _softmax(values: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    degree = torch.where(temperature > 0, temperature, 1.0)[:, None, None]
    return torch.softmax(values / degree, dim=2)
