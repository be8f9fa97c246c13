"""What the worker keeps of SGLang's requests, by request slot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.slots import RequestTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker.acceptance import Outcome
from nemotron_diffusion_plugin.sglang.worker.logprobs import wanted_logprobs
from nemotron_diffusion_plugin.sglang.worker.penalties import OutputCounts, has_penalties

_SEED = "_nemotron_diffusion_seed"


class Requests:
    """The request table with what only SGLang's side of it needs.

    Attributes:
        table: options, limits and the block of each slot.
        counts: tokens emitted by requests with penalties.
        seeds: int64 `[N]` on the device, noise seed of each slot.
        ended: bool `[N]` on the device, whether a slot's request has emitted its last token.
        engine_samples: bool `[N]` on the host, whether SGLang's own sampler is exact for a slot's request.
    """

    def __init__(
        self, settings: ServerSettings, slots: int, mask_token_id: int, vocab_size: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.table = RequestTable(settings, slots, mask_token_id, device)
        self.counts = OutputCounts(slots, vocab_size, device)
        self.seeds = torch.zeros(slots, dtype=torch.int64, device=device)
        self.ended = torch.zeros(slots, dtype=torch.bool, device=device)
        self.engine_samples = np.ones(slots, dtype=bool)

    def take(self, req: Any, context_length: int) -> None:
        """Take over a slot when its request is prefilled; a retracted request comes this way again."""
        params, slot = req.sampling_params, req.kv.req_pool_idx
        options = self.settings.options(own_options(params.custom_params))
        stops = stop_token_ids(req)
        prompt_len = len(req.origin_input_ids)
        greedy = is_greedy(params)
        seeded = params.sampling_seed is not None and not greedy
        logprobs, named = wanted_logprobs(req)
        self.table.take(
            slot,
            options,
            prompt_len=prompt_len,
            limit=min(prompt_len + params.max_new_tokens, context_length),
            temperature=0.0 if greedy else params.temperature,
            min_tokens=params.min_new_tokens,
            stop_ids=stops,
            seeded=seeded,
            logprobs=logprobs,
            named_logprobs=named,
        )
        self.counts.take(slot, params, req.output_ids)
        self.engine_samples[slot] = not (has_penalties(params) or params.min_new_tokens or seeded)
        self.seeds[slot] = noise_seed(req)
        self.ended[slot] = False

    def note_ended(self, index: torch.Tensor, computed: torch.Tensor, outcome: Outcome) -> None:
        """Note on the device which of the slots `index` (int64 `[R]`) end with what they emit now."""
        column = torch.arange(outcome.tokens.shape[1], device=index.device)
        real = column < outcome.lengths[:, None]
        stopped = (self.table.is_stop(index, outcome.tokens) & real).any(dim=1)
        self.ended[index] = stopped | (computed + 1 + outcome.lengths >= self.table.limit[index])


def own_options(custom_params: Any) -> Any:
    """The decoding options among a request's `custom_params`; SGLang adds names of its own, which it handles."""
    if not isinstance(custom_params, dict):
        return custom_params
    return {name: value for name, value in custom_params.items() if name not in _engine_keys()}


def _engine_keys() -> frozenset[str]:
    from sglang.srt.sampling import sampling_params

    return frozenset(
        {
            "thinking_budget",
            "__req__",
            sampling_params.REQUEST_REASONING_END_TOKEN_IDS_KEY,
            sampling_params.REQUEST_REASONING_IN_GRAMMAR_KEY,
        }
    )


def is_greedy(params: Any) -> bool:
    """Whether a request takes the most likely token; SGLang turns temperature 0 into top_k 1."""
    return bool(params.top_k <= 1)


def stop_token_ids(req: Any) -> list[int]:
    """The ids that end a request, as SGLang's scheduler checks them: none with ignore_eos."""
    params = req.sampling_params
    if params.ignore_eos:
        return []
    ids = set(params.stop_token_ids or ()) | set(req.eos_token_ids or ())
    if req.tokenizer is not None:
        ids.add(req.tokenizer.eos_token_id)
        ids |= set(req.tokenizer.additional_stop_token_ids or ())
    return sorted(ids - {None})


def noise_seed(req: Any) -> int:
    """The seed of a request's noise: its own, or one made of its id, which every tensor-parallel rank knows."""
    given = req.sampling_params.sampling_seed
    if given is not None:
        return int(given)
    digest = hashlib.blake2b(str(req.rid).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


@dataclass(frozen=True)
class ForcedSeed:
    """What the prefill of a retracted diffusion request emits: behind `place` tokens, the seed it had.

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

    SGLang prefills prompt and output again and samples a token behind them. For diffusion that token would come from a
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
