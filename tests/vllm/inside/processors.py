"""An engine with a logits processor of its user's, which bans the token that a request names."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from tests.vllm.inside.refusals import ALWAYS

KEY = "banned"
MODES = ("ar", "self_speculation", "auto")


class Ban(LogitsProcessor):
    """Bans one token in the requests that name it."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self.banned = torch.full((req_states.max_num_reqs,), -1)

    @override
    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self.banned[req_idx] = (sampling_params.extra_args or {}).get(KEY, -1)
        return bool(self.banned[req_idx] >= 0)

    @override
    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        for row, token in enumerate(self.banned[ctx.expanded_idx_mapping].tolist()):
            if token >= 0:
                logits[row, token] = float("-inf")
        return logits


def observe(folder: str, prompt: list[int]) -> dict[str, Any]:
    """The greedy and the seeded tokens of each mode, free and without their most frequent one; what is refused."""
    llm = LLM(folder, **ALWAYS, logits_processors=[f"{__name__}:Ban"])

    def tokens(seed: int | None = None, **extra_args: Any) -> list[int]:
        params = SamplingParams(
            temperature=0 if seed is None else 0.8,
            seed=seed,
            max_tokens=60,
            ignore_eos=True,
            extra_args=extra_args,
        )
        [output] = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
        return list(output.outputs[0].token_ids)

    def refusal(**extra_args: Any) -> str:
        try:
            tokens(**extra_args)
        except VLLMValidationError as error:
            return str(error)
        return ""

    free = {mode: tokens(decoding_mode=mode) for mode in MODES}
    banned = max(free["ar"], key=free["ar"].count)
    return {
        "banned": banned,
        "free": free,
        "greedy": {mode: tokens(decoding_mode=mode, banned=banned) for mode in MODES},
        "seeded": {mode: tokens(seed=3, decoding_mode=mode, banned=banned) for mode in MODES},
        "diffusion": refusal(decoding_mode="diffusion"),
        "misspelt": refusal(decoding_mod="ar"),
    }
