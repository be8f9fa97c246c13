"""The model class: SGLang's Llama with the query scale, two views of the same KV, and the draft-only LoRA."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.llama import LlamaAttention, LlamaForCausalLM
from sglang.srt.runtime_context import get_server_args

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import check_names
from nemotron_diffusion_plugin.model.rope import query_scale
from nemotron_diffusion_plugin.serving.lora_files import dummy_drafter_lora, find_drafter_lora
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.weights import checked, damaged
from nemotron_diffusion_plugin.sglang.draft_lora import DraftLoraBranch
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.settings import settings_of

_KV_SCALES = ("k_scale", "v_scale", "k_scale_float", "v_scale_float")
_PREFIXES = {"encoder.": "model.", "diffusion_head.": "lm_head."}


class NemotronLabsDiffusionAttention(LlamaAttention):
    """Grouped-query attention that is causal or bidirectional within a block, as the forward's spec_info says."""

    bidirectional: RadixAttention
    draft_lora: DraftLoraBranch
    rope_parameters: dict[str, Any]
    scales_queries: bool

    @classmethod
    def adopt(cls, attention: LlamaAttention, config: Any) -> None:
        """Turn a Llama attention layer, which SGLang's decoder layer builds by itself, into one of ours."""
        attention.__class__ = cls
        attention.bidirectional = RadixAttention(
            attention.num_heads,
            attention.head_dim,
            attention.scaling,
            num_kv_heads=attention.num_kv_heads,
            layer_id=attention.attn.layer_id,
            attn_type=AttentionType.ENCODER_ONLY,
        )
        attention.draft_lora = DraftLoraBranch()
        attention.rope_parameters = config.rope_parameters
        attention.scales_queries = config.llama_4_scaling is not None

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, forward_batch: ForwardBatch
    ) -> torch.Tensor:
        """Return `[T, hidden_size]` for int64 positions `[T]` and hidden states `[T, hidden_size]`."""
        query, key, value = self.forward_prepare_native(positions, hidden_states)
        if self.scales_queries:
            scale = query_scale(positions, self.rope_parameters)
            query = (query * scale[:, None]).to(query.dtype).contiguous()
        spec_info = forward_batch.spec_info
        view = self._bidirectional_view() if getattr(spec_info, "bidirectional", False) else self.attn
        attended = view(query, key, value, forward_batch)
        output, _ = self.o_proj(attended)
        rows = getattr(spec_info, "lora_rows", None)
        return output if rows is None else self.draft_lora(output, attended, rows)

    def _bidirectional_view(self) -> RadixAttention:
        """The second view of the KV, with the scales of a quantized cache that the first one was loaded with."""
        if self.bidirectional.k_scale is not self.attn.k_scale:
            for name in _KV_SCALES:
                setattr(self.bidirectional, name, getattr(self.attn, name))
        return self.bidirectional


class NemotronLabsDiffusionModel(LlamaForCausalLM):
    """Nemotron-Labs-Diffusion as SGLang runs it; the class bears the architecture's name, which SGLang looks for."""

    _is_complete = False

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        from nemotron_diffusion_plugin.sglang.registration import check_in_place

        check_in_place()
        super().__init__(config, quant_config=quant_config, prefix=prefix)
        for layer in self.model.layers:
            NemotronLabsDiffusionAttention.adopt(layer.self_attn, config)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the published tensor names and the drafter LoRA.

        Raises `CheckpointError` naming the tensors found and expected when they do not match, and the file or
        tensor that is damaged. Later calls may bring some tensors only, as SGLang's updates of weights do.
        """
        found: list[str] = []
        try:
            loaded: set[str] = super().load_weights(_renamed(checked(weights, found)))
        except CheckpointError:
            raise
        except SafetensorError as error:
            raise damaged(Path(get_server_args().model_path), found, self.config, error) from error
        except (AssertionError, KeyError, RuntimeError, ValueError):
            found.extend(name for name, _ in weights)
            self._check_names(found)
            raise
        if not self._is_complete:
            self._check_names(found)
            self._load_drafter_lora()
            self._is_complete = True
        return loaded

    def post_load_weights(self) -> None:
        """SGLang's last step of loading: after load format dummy, which brings no tensors, a drafter LoRA is drawn."""
        arguments = get_server_args()
        if not self._is_complete and arguments.load_format == "dummy":
            self._take_drafter_lora(dummy_drafter_lora(arguments.model_path, self.config, logger))
            self._is_complete = True

    def _check_names(self, found: list[str]) -> None:
        if self.quant_config is None and not self._is_complete:
            check_names(found, self.config)

    def _load_drafter_lora(self) -> None:
        arguments = get_server_args()
        lora = find_drafter_lora(
            arguments.model_path,
            self.config,
            revision=arguments.revision,
            cache_dir=arguments.download_dir,
            logger=logger,
        )
        self._take_drafter_lora(lora)

    def _take_drafter_lora(self, lora: DrafterLora | None) -> None:
        if lora is None:
            return
        operators = make_operators(settings_of(self.config).kernels, torch.device(get_server_args().device))
        for index, layer in enumerate(self.model.layers):
            layer.self_attn.draft_lora.load_shard(lora, index, self.model.norm.weight, operators)


def _renamed(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
    for name, tensor in weights:
        for published, engine in _PREFIXES.items():
            if name.startswith(published):
                name = engine + name[len(published) :]
                break
        yield name, tensor


EntryClass = [NemotronLabsDiffusionModel]
