"""The model class: vLLM's Llama parts with the query scale and the draft-only low-rank branch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, extract_layer_index

from nemotron_diffusion_plugin.checkpoint.errors import CheckpointError
from nemotron_diffusion_plugin.checkpoint.names import check_names, expected_shapes
from nemotron_diffusion_plugin.checkpoint.reader import find_names
from nemotron_diffusion_plugin.rope import query_scale
from nemotron_diffusion_plugin.vllm.draft_lora import DraftLoraBranch
from nemotron_diffusion_plugin.vllm.lora_files import load_drafter_lora


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

    def get_model_state_cls(self) -> type:
        """The model state that lets our speculator see slots, block tables and the sampler."""
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        from nemotron_diffusion_plugin.vllm.identity import uses_block_speculator
        from nemotron_diffusion_plugin.vllm.model_state import BlockModelState

        return BlockModelState if uses_block_speculator(self.vllm_config) else DefaultModelState

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the published tensor names and the drafter LoRA.

        Raises `CheckpointError` naming the tensors found and expected when they do not match, and the file or
        tensor that is damaged.
        """
        found: list[str] = []
        loader = AutoWeightsLoader(self)
        try:
            loaded = loader.load_weights(_recorded(weights, found), mapper=self.hf_to_vllm_mapper)
        except CheckpointError:
            raise
        except SafetensorError as error:
            raise self._damaged(found, error) from error
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

    def _damaged(self, found: list[str], error: Exception) -> CheckpointError:
        folder = Path(self.vllm_config.model_config.model)
        for path in sorted(folder.glob("*.safetensors")):
            find_names(path)
        expected = len(expected_shapes(self.config))
        return CheckpointError(f"{folder}: found {len(found)} of {expected} expected tensors, then: {error}")

    def _load_drafter_lora(self) -> None:
        lora = load_drafter_lora(self.vllm_config)
        if lora is None:
            return
        like = self.model.norm.weight
        for module in self.modules():
            if isinstance(module, DraftLoraBranch):
                module.load(lora, extract_layer_index(module.name), like)


def _recorded(
    weights: Iterable[tuple[str, torch.Tensor]], names: list[str]
) -> Iterable[tuple[str, torch.Tensor]]:
    for name, tensor in weights:
        names.append(name)
        wide = tensor.is_floating_point() and tensor.element_size() > 1
        # A sum is finite only if every term is, and needs no second tensor of the weight's size.
        if wide and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise CheckpointError(f"tensor '{name}' holds NaN or infinite values")
        yield name, tensor
