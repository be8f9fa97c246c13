"""The model class: vLLM's Llama parts with the query scale and the draft-only low-rank branch."""

from __future__ import annotations

import logging
from typing import Any

import torch
from typing_extensions import override
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.utils import WeightsMapper, extract_layer_index

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.rope import query_scale
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.serving.draft_lora import Shard, branches
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader, Weights
from nemotron_diffusion_plugin.vllm import weight_updates
from nemotron_diffusion_plugin.vllm.draft_lora import DraftLoraBranch
from nemotron_diffusion_plugin.vllm.settings import server_settings

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


@checked_overrides
class NemotronLabsDiffusionAttention(LlamaAttention):
    """Grouped-query attention with YaRN, the position-dependent query scale and the drafter's branch."""

    def __init__(self, config: Any, *arguments: Any, prefix: str = "", **keywords: Any) -> None:
        super().__init__(config, *arguments, prefix=prefix, **keywords)
        vllm_config = get_current_vllm_config()
        self.rope_parameters = config.rope_parameters
        self.scales_queries = config.llama_4_scaling is not None
        self.draft_lora = DraftLoraBranch(
            extract_layer_index(prefix),
            f"{prefix}.draft_lora",
            vllm_config.compilation_config.static_forward_context,
        )

    @override
    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return `[T, hidden_size]` for int64 positions `[T]` and hidden states `[T, hidden_size]`."""
        qkv, _ = self.qkv_proj(hidden_states)
        query, key, value = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        query, key = self.rotary_emb(positions, query, key)
        if self.scales_queries:
            query = (query * query_scale(positions, self.rope_parameters)[:, None]).to(query.dtype)
        attended = self.attn(query, key, value)
        output, _ = self.o_proj(attended)
        return self.draft_lora(output, attended)


@checked_overrides
class NemotronLabsDiffusionDecoderLayer(LlamaDecoderLayer):
    """A Llama layer with our attention."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        super().__init__(
            vllm_config, prefix=prefix, config=config, attn_layer_type=NemotronLabsDiffusionAttention
        )


@checked_overrides
class NemotronLabsDiffusionForCausalLM(LlamaForCausalLM):
    """Nemotron-Labs-Diffusion as vLLM runs it: one network, causal or bidirectional by attention metadata."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=TEXT.prefixes)
    """For the names of layers that a quantization lists; tensors come to `load_weights` of the base class renamed."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=NemotronLabsDiffusionDecoderLayer)
        self.vllm_config = vllm_config
        self.loader = CheckpointLoader(
            vllm_config.model_config.hf_config,
            quantized=vllm_config.quant_config is not None,
            place=self._place_lora,
            branches=lambda: branches(self),
            logger=logger,
        )
        weight_updates.adopt(self)
        if vllm_config.load_config.load_format == "dummy":  # which never calls `load_weights`
            self.loader.draw_lora(self.source)

    def get_model_state_cls(self) -> type:
        """The model state that lets our speculator see slots, block tables and the sampler."""
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        from nemotron_diffusion_plugin.vllm.identity import uses_block_speculator
        from nemotron_diffusion_plugin.vllm.worker.model_state import BlockModelState

        return BlockModelState if uses_block_speculator(self.vllm_config) else DefaultModelState

    @override
    def load_weights(self, weights: Weights) -> set[str]:
        """Load the published tensor names and the drafter LoRA; raises `CheckpointError` (`CheckpointLoader.load`)."""
        loaded: set[str] = self.loader.load(weights, super().load_weights, self.source)
        return loaded

    @property
    def source(self) -> Source:
        """Where the weights come from; vLLM's configuration says so, also after a reload from another path."""
        config = self.vllm_config.model_config
        return Source(config.model, config.revision, self.vllm_config.load_config.download_dir)

    def _place_lora(self, lora: DrafterLora) -> None:
        device = torch.device(self.vllm_config.device_config.device_type)
        operators = make_operators(server_settings(self.vllm_config).kernels, device)
        shard = Shard(
            get_tensor_model_parallel_rank(),
            get_tensor_model_parallel_world_size(),
            tensor_model_parallel_all_reduce,
        )
        for branch in branches(self):
            branch.load(lora, self.model.norm.weight, shard, operators)
