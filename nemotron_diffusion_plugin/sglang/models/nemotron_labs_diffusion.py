"""The model class: SGLang's Llama with the query scale, two views of the same KV, and the draft-only LoRA."""

from __future__ import annotations

import re
from typing import Any

import torch
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.llama import LlamaAttention, LlamaForCausalLM
from sglang.srt.runtime_context import get_parallel, get_server_args
from typing_extensions import override

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.rope import query_scale
from nemotron_diffusion_plugin.model.spec import spec_of
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch, Shard, branches
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader, Weights
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.settings import settings_of

_KV_SCALES = ("k_scale", "v_scale", "k_scale_float", "v_scale_float")


@checked_overrides
class NemotronLabsDiffusionAttention(LlamaAttention):
    """Grouped-query attention that is causal or bidirectional within a block, as the forward's spec_info says."""

    bidirectional: RadixAttention
    draft_lora: LowRankBranch
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
        attention.draft_lora = LowRankBranch(attention.attn.layer_id)
        attention.rope_parameters = config.rope_parameters
        attention.scales_queries = config.llama_4_scaling is not None

    @override
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
        if rows is not None:
            self.draft_lora.draft(output, attended, rows)
        return output

    def _bidirectional_view(self) -> RadixAttention:
        """The second view of the KV, with the scales of a quantized cache that the first one was loaded with."""
        if self.bidirectional.k_scale is not self.attn.k_scale:
            for name in _KV_SCALES:
                setattr(self.bidirectional, name, getattr(self.attn, name))
        return self.bidirectional


@checked_overrides
class NemotronLabsDiffusionModel(LlamaForCausalLM):
    """Nemotron-Labs-Diffusion as SGLang runs it; the class bears the architecture's name, which SGLang looks for."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        from nemotron_diffusion_plugin.sglang.registration import check_in_place

        check_in_place()
        super().__init__(config, quant_config=quant_config, prefix=prefix)
        for layer in self.model.layers:
            NemotronLabsDiffusionAttention.adopt(layer.self_attn, config)
        self.loader = CheckpointLoader(
            config,
            quantized=quant_config is not None,
            place=self._place_lora,
            branches=lambda: branches(self),
            logger=logger,
        )

    @override
    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = False,
        pp_proxy_tensors: Any = None,
    ) -> Any:
        """Run the network; embeddings that a request brings, `[T, hidden_size]`, come in SGLang's bfloat16.

        Theirs is float32, so they are taken as they came, in the model's dtype.
        """
        if input_embeds is not None:
            alone = forward_batch.input_embeds is not None and forward_batch.replace_embeds is None
            given = forward_batch.input_embeds if alone else input_embeds
            input_embeds = given.to(self.model.norm.weight.dtype)
        return super().forward(
            input_ids, positions, forward_batch, input_embeds, get_embedding, pp_proxy_tensors
        )

    @override
    def load_weights(self, weights: Weights) -> set[str]:
        """Load the published tensor names and the drafter LoRA; raises `CheckpointError` (`CheckpointLoader.load`)."""
        loaded: set[str] = self.loader.load(weights, super().load_weights, self._source())
        return loaded

    def post_load_weights(self) -> None:
        """SGLang's last step of loading, the only one with load format dummy."""
        if get_server_args().load_format == "dummy":
            self.loader.draw_lora(self._source())

    @override
    def get_weights_by_name(self, name: str, truncate_size: int = 100, tp_size: int = 1) -> Any:
        """The first rows of a published tensor, float32, as lists; None where there is none.

        SGLang finds q, k and v in their common tensor only where `head_dim` is `hidden_size / num_attention_heads`.
        """
        engine_name = spec_of(self.config).engine_name(name)
        found = re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight", engine_name)
        if found is None or int(found[1]) >= len(self.model.layers):
            return super().get_weights_by_name(engine_name, truncate_size, tp_size)
        attention = self.model.layers[int(found[1])].self_attn
        sizes = [attention.q_size, attention.kv_size, attention.kv_size]
        rows = attention.qkv_proj.weight.split(sizes)["qkv".index(found[2])]
        return rows[:truncate_size].float().tolist()

    def _source(self) -> Source:
        arguments = get_server_args()
        return Source(arguments.model_path, arguments.revision, arguments.download_dir)

    def _place_lora(self, lora: DrafterLora) -> None:
        operators = make_operators(settings_of(self.config).kernels, torch.device(get_server_args().device))
        parallel = get_parallel()
        shard = Shard(parallel.tp_rank, parallel.tp_size, tensor_model_parallel_all_reduce)
        for branch in branches(self):
            branch.load(lora, self.model.norm.weight, shard, operators)


EntryClass = [NemotronLabsDiffusionModel]
