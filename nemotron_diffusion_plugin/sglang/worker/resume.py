"""Retraction: a diffusion request resumes at the border of a block, with the seed it had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SEED = "_nemotron_diffusion_seed"


@dataclass(frozen=True)
class ForcedSeed:
    """What the prefill of a retracted diffusion request emits: after `place` tokens, the seed it had.

    Attributes:
        seed: the token.
        logprob: its log-probability, None where none was asked for.
        place: tokens that the request had emitted before it.
    """

    seed: int
    logprob: float | None
    place: int


def give_back_seed(req: Any) -> None:
    """Before a diffusion request is retracted: keep its last token as the seed to resume with.

    SGLang prefills prompt and output again and samples a token after them. For diffusion that token would come from a
    causal forward and shift every later block, so the last one is taken back and becomes the prefill's result, with the
    log-probability it had. A request that is retracted again before that result was taken in has its seed already.
    """
    if not len(req.output_ids) or forced_seed(req) is not None:
        return
    seed, logprob = int(req.output_ids[-1]), None
    del req.output_ids[-1]
    place = len(req.output_ids)
    if req.return_logprob and req.logprob is not None:
        for kind in ("token_logprobs", "top_logprobs", "token_ids_logprobs"):
            for part in ("val", "idx"):
                values = getattr(req.logprob, f"output_{kind}_{part}", None)
                if values is not None and len(values) > place:
                    if (kind, part) == ("token_logprobs", "val"):
                        logprob = float(values[-1])
                    del values[place:]
    setattr(req, _SEED, ForcedSeed(seed, logprob, place))


def forced_seed(req: Any) -> ForcedSeed | None:
    """What the prefill of a request is to emit, None for every request but a retracted one of diffusion."""
    forced: ForcedSeed | None = getattr(req, _SEED, None)
    return forced if forced is not None and forced.place == len(req.output_ids) else None
