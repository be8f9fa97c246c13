"""The model class: vLLM's Llama parts with the query scale and the draft-only low-rank branch."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, extract_layer_index

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import check_names
from nemotron_diffusion_plugin.model.rope import query_scale
from nemotron_diffusion_plugin.serving.lora_files import dummy_drafter_lora, find_drafter_lora
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.weights import checked, damaged
from nemotron_diffusion_plugin.vllm.draft_lora import DraftLoraBranch
from nemotron_diffusion_plugin.vllm.settings import server_settings

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


class NemotronLabsDiffusionAttention(LlamaAttention):
    """Grouped-query attention with YaRN, the position-dependent query scale and the drafter's branch."""

    def __init__(self, config: Any, *arguments: Any, prefix: str = "", **keywords: Any) -> None:
        super().__init__(config, *arguments, prefix=prefix, **keywords)
        vllm_config = get_current_vllm_config()
        self.rope_parameters = config.rope_parameters
        self.scales_queries = config.llama_4_scaling is not None
        self.draft_lora = DraftLoraBranch(
            f"{prefix}.draft_lora", vllm_config.compilation_config.static_forward_context
        )

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


class NemotronLabsDiffusionDecoderLayer(LlamaDecoderLayer):
    """A Llama layer with our attention."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        super().__init__(
            vllm_config, prefix=prefix, config=config, attn_layer_type=NemotronLabsDiffusionAttention
        )


class NemotronLabsDiffusionForCausalLM(LlamaForCausalLM):
    """Nemotron-Labs-Diffusion as vLLM runs it: one network, causal or bidirectional by attention metadata."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={"encoder.": "model.", "diffusion_head.": "lm_head."}
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=NemotronLabsDiffusionDecoderLayer)
        self.vllm_config = vllm_config
        if vllm_config.load_config.load_format == "dummy":
            # It brings no tensors, so `load_weights` is never called.
            model_config = vllm_config.model_config
            self._take_drafter_lora(dummy_drafter_lora(model_config.model, model_config.hf_config, logger))

    def get_model_state_cls(self) -> type:
        """The model state that lets our speculator see slots, block tables and the sampler."""
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        from nemotron_diffusion_plugin.vllm.identity import uses_block_speculator
        from nemotron_diffusion_plugin.vllm.worker.model_state import BlockModelState

        return BlockModelState if uses_block_speculator(self.vllm_config) else DefaultModelState

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the published tensor names and the drafter LoRA.

        Raises `CheckpointError` naming the tensors found and expected when they do not match, and the file or
        tensor that is damaged.
        """
        found: list[str] = []
        loader = AutoWeightsLoader(self)
        try:
            loaded = loader.load_weights(checked(weights, found), mapper=self.hf_to_vllm_mapper)
        except CheckpointError:
            raise
        except SafetensorError as error:
            raise damaged(Path(self.vllm_config.model_config.model), found, self.config, error) from error
        except (ValueError, KeyError):
            found.extend(name for name, _ in weights)
            self._check_names(found)
            raise
        self._check_names(found)
        self._load_drafter_lora()
        return loaded

    def _check_names(self, found: list[str]) -> None:
        if self.vllm_config.quant_config is None:
            check_names(found, self.config)

    def _load_drafter_lora(self) -> None:
        model_config = self.vllm_config.model_config
        lora = find_drafter_lora(
            model_config.model,
            model_config.hf_config,
            revision=model_config.revision,
            cache_dir=self.vllm_config.load_config.download_dir,
            logger=logger,
        )
        self._take_drafter_lora(lora)

    def _take_drafter_lora(self, lora: DrafterLora | None) -> None:
        if lora is None:
            return
        device = torch.device(self.vllm_config.device_config.device_type)
        operators = make_operators(server_settings(self.vllm_config).kernels, device)
        like = self.model.norm.weight
        rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        for module in self.modules():
            if isinstance(module, DraftLoraBranch):
                module.load(lora, extract_layer_index(module.name), like, rank, ranks, operators)
