"""The acceptance of drafts by rejection sampling: arguments, checks, choice of backend."""

from typing import NamedTuple

import torch

from ..accept.api import Accepted
from ..backends import resolve
from ..checks import FLOATS, INTEGERS, check_rows_contiguous, check_tensor

MAX_DRAFTS = 127
_NAME = "accept_sampled"
_TEMPERATURES = (torch.float32, torch.float64)


class BlockLogits(NamedTuple):
    """Logits of the rows of many requests, one request's rows after each other.

    Attributes:
        logits: float32, bfloat16 or float16 `[M, V]`, any stride between rows.
        first_rows: int32 or int64 `[R]`, where a request's rows begin; of an idle request it is not read.
    """

    logits: torch.Tensor
    first_rows: torch.Tensor


def accept_sampled(
    drafts: torch.Tensor,
    num_drafts: torch.Tensor,
    lengths: torch.Tensor,
    verify: BlockLogits,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    *,
    draft: BlockLogits | None = None,
    draft_temperature: torch.Tensor | None = None,
    mask_token_id: int | None = None,
    backend: str | None = None,
) -> Accepted:
    """Accept drafts so that the emitted tokens are distributed as softmax(L / T) of the causal rows, whatever drew
    the drafts (docs/model.md, 3.3).

    With p the distribution of a causal row and q the one its draft was drawn from, a draft d is accepted with
    probability min(1, p(d) / q(d)); the first one that is not is replaced by a token drawn from max(p - q, 0),
    normalised, and after n accepted drafts a bonus is drawn from the last p. A request at temperature 0 accepts and
    emits the most likely tokens, as `accept` does. Drafts that were not drawn but picked as the most likely ones
    have a one-hot q: then `draft` is None, or their request's `draft_temperature` 0, and no q row is read.

    The noise of position i after c cached tokens is that of `RowNoise(seed, c + i, step)`: a request's result does
    not depend on the batch, and one without drafts emits what `pick` draws there. Exactness needs steps that the
    drafts were not drawn with.

    Logits are taken, not probabilities: every row is read once for its normalizer, and the one row where a token is
    drawn once more, without a copy. Probabilities are float32, the noise is float64. Nothing is read on the host. A
    logit that is NaN counts as -inf; a row without a finite logit rejects its draft and emits some id.

    Args:
        drafts: int32 or int64 `[R, K]`, the drafts after the seed, K 0 to 127; a draft that is no id is rejected.
        num_drafts: int32 or int64 `[R]`; 0 emits one token; -1 marks an idle request; more than K counts as K.
        lengths: int32 or int64 `[R]`, tokens cached before the block, whose seed is at that position.
        verify: the causal rows, one more than drafts; row i follows draft i.
        temperature: float32 or float64 `[R]`, of p.
        seeds, steps: int64 `[R]`, see `RowNoise`.
        draft: the rows that the drafts were drawn from, row i - 1 for draft i; the vocabulary is that of `verify`.
        draft_temperature: float32 or float64 `[R]`, of q; None for `temperature`.
        mask_token_id: the id that the drafts were never drawn as, so it is left out of q. It stays in p.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Returns what `accept` returns: int64 accepted `[R]`, emitted `[R, K + 1]`, seeds `[R]` and lengths `[R]`.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the backend asked for cannot run here.
    """
    device = drafts.device
    check_tensor(_NAME, "drafts", drafts, (None, None), INTEGERS, device)
    rows, width = drafts.shape
    if width > MAX_DRAFTS:
        raise ValueError(f"{_NAME}: {width} drafts a row, expected at most {MAX_DRAFTS}")
    vocabulary = verify.logits.shape[-1]
    expected = [
        ("num_drafts", num_drafts, (rows,), INTEGERS),
        ("lengths", lengths, (rows,), INTEGERS),
        ("verify.logits", verify.logits, (None, None), FLOATS),
        ("verify.first_rows", verify.first_rows, (rows,), INTEGERS),
        ("temperature", temperature, (rows,), _TEMPERATURES),
        ("seeds", seeds, (rows,), (torch.int64,)),
        ("steps", steps, (rows,), (torch.int64,)),
    ]
    if draft is not None:
        expected.append(("draft.logits", draft.logits, (None, vocabulary), FLOATS))
        expected.append(("draft.first_rows", draft.first_rows, (rows,), INTEGERS))
    if draft_temperature is not None:
        expected.append(("draft_temperature", draft_temperature, (rows,), _TEMPERATURES))
    check_rows_contiguous(_NAME, "drafts", drafts)
    for name, tensor, shape, dtypes in expected:
        check_tensor(_NAME, name, tensor, shape, dtypes, device)
        check_rows_contiguous(_NAME, name, tensor)
    if vocabulary == 0:
        raise ValueError(f"{_NAME}: verify.logits has no columns, expected at least one id")
    if mask_token_id is not None and not 0 <= mask_token_id < vocabulary:
        raise ValueError(f"{_NAME}: mask_token_id is {mask_token_id}, expected 0 to {vocabulary - 1} or None")
    if draft_temperature is None:
        draft_temperature = temperature
    arguments = (drafts, num_drafts, lengths, verify, temperature, seeds, steps, draft, draft_temperature)
    if resolve(_NAME, backend, device) == "torch":
        from .reference import accept_sampled_reference

        return accept_sampled_reference(*arguments, mask_token_id)
    from .triton import accept_sampled_triton

    return accept_sampled_triton(*arguments, mask_token_id)
