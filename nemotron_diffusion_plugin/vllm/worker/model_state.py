"""The model state: where runner V2 tells a model about requests, the KV cache, the sampler and each forward."""

from __future__ import annotations

from typing import Any

from typing_extensions import override
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward
from nemotron_diffusion_plugin.vllm.worker.requests import read_request
from nemotron_diffusion_plugin.vllm.worker.speculator import speculator_of


@checked_overrides
class BlockModelState(DefaultModelState):
    """Introduces the speculator to everything it needs of the runner."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.speculator = speculator_of(self.vllm_config)

    @override
    def custom_sampler(self, sampler: Any) -> tuple[Any, Any]:
        """Replace the samplers by those that accept diffusion blocks."""
        return self.speculator.attach_sampler(sampler)

    @override
    def initialize_kv_cache(self, kv_cache_config: Any, block_tables: Any) -> None:
        """Give the speculator its forward over the KV cache."""
        super().initialize_kv_cache(kv_cache_config, block_tables)
        self.forward = BlockForward(self.vllm_config, self.model, block_tables, kv_cache_config)
        self.speculator.attach_forward(self.forward)

    @override
    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Take over a slot, also for a request that was preempted and comes back."""
        super().add_request(req_index, new_req_data)
        request = read_request(
            self.speculator.settings,
            new_req_data.prompt_len,
            new_req_data.sampling_params,
            self.max_model_len,
        )
        self.speculator.table.take(req_index, request)

    @override
    def remove_request(self, req_id: str) -> None:
        """Forget the block of a request that has finished, was aborted or is preempted."""
        slot = self.speculator.req_states.req_id_to_index.get(req_id)
        if slot is not None:
            self.speculator.table.release(slot)
        super().remove_request(req_id)

    @override
    def preprocess_state(self, input_batch: Any, *arguments: Any) -> None:
        """Before the attention metadata of the verify forward is built: finish blocks that are due."""
        super().preprocess_state(input_batch, *arguments)
        self.speculator.finish_scheduled(input_batch)

    @override
    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: Any,
        block_tables: Any,
        slot_mappings: Any,
        attn_groups: list[list[Any]],
        *arguments: Any,
        **keywords: Any,
    ) -> dict[str, Any]:
        """Build the verify forward's metadata, and remember the attention groups for the draft forwards."""
        self.forward.attn_groups = attn_groups
        return super().prepare_attn(
            input_batch, cudagraph_mode, block_tables, slot_mappings, attn_groups, *arguments, **keywords
        )
