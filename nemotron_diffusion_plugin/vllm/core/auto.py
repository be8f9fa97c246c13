"""Block lengths of requests in auto: chosen by the scheduler, by what it has seen of each request."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.requests import AutoBlocks, Drafting, make_policy
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.identity import device_name

_LENGTH = "_nemotron_diffusion_block_length"
_PROPOSED = "_nemotron_diffusion_proposed_drafts"


class SchedulerBlocks(AutoBlocks):
    """The policy of one engine; each request's length is kept on vLLM's own request."""

    def __init__(self, vllm_config: Any, settings: ServerSettings) -> None:
        engine = Engine(rows_at_once=vllm_config.scheduler_config.max_num_batched_tokens)
        parallel = vllm_config.parallel_config.tensor_parallel_size
        hf_config = vllm_config.model_config.hf_config
        super().__init__(make_policy(settings, hf_config, device_name(), parallel, engine))

    def choose_for(self, requests: list[tuple[Any, DecodingOptions]], scheduled: Any) -> dict[str, int]:
        """Choose the next block of each `scheduled` request in auto; returns the lengths by request id.

        `requests` are all that decode, with their options; `scheduled` holds the ids of those of the present step.
        """
        auto, others = [], []
        for request, options in requests:
            mode, kv = options.decoding_mode, int(request.num_computed_tokens)
            one = Drafting(request, mode, options.longest_block, kv, request.use_structured_output)
            if mode is not DecodingMode.AUTO:
                others.append(one)
            elif request.request_id in scheduled:
                auto.append(one)
        chosen = self.choose(auto, others)
        for one, length in zip(auto, chosen, strict=True):
            setattr(one.request, _LENGTH, length)
        return {one.request.request_id: length for one, length in zip(auto, chosen, strict=True)}


def chosen_block(request: Any) -> int:
    """The block length last chosen for a request in auto; 1 before the first choice."""
    return int(getattr(request, _LENGTH, 1))


def note_proposed(request: Any, drafts: int) -> None:
    """Remember how many drafts a request with a grammar was given, before vLLM cuts off what the grammar refuses."""
    setattr(request, _PROPOSED, drafts)


def proposed_drafts(request: Any) -> int:
    """The number last noted; 0 without a grammar, and under asynchronous scheduling, which cuts nothing off."""
    return int(getattr(request, _PROPOSED, 0))
