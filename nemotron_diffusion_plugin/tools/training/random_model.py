"""Checkpoints with random weights in exactly the published format, in any shape, for tests."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nemotron_diffusion_plugin.model.config import MODEL_TYPE, NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import INDEX_FILE, SINGLE_FILE
from nemotron_diffusion_plugin.model.shapes import ModelShape
from nemotron_diffusion_plugin.model.spec import TEXT
from nemotron_diffusion_plugin.tools.outputs import writing
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer

SMALL_CONFIG: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1024,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    "mask_token_id": 100,
    "block_size": 32,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 11,
    "pad_token_id": None,
}
"""A shape that exercises what small models usually do not: hidden_size is not heads * head_dim, heads share
keys, the YaRN ramp lies inside the frequencies, and the query scale changes every 64 positions."""

_PUBLISHED_FIELDS: dict[str, Any] = {
    "architectures": [TEXT.architecture],
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "model_type": MODEL_TYPE,
    "dlm_paradigm": "bidirectional",
    "dlm_loss_weight": None,
    "ar_loss_weight": 1.0,
    "dp_varying_mask_ratio": False,
}

_ATTENTION_GAIN = 1.5
_MASK_EMBEDDING_STD = 0.1
_HEAD_LOGIT_STD = 4.0
_HEAD_ROW_SPREAD = 0.6
_LORA_RANK = 8
_LORA_ALPHA = 32


def write_random_checkpoint(
    folder: str | Path,
    *,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    shards: int = 1,
    lora: bool = True,
    dtype: torch.dtype = torch.float32,
) -> NemotronLabsDiffusionConfig:
    """Write a checkpoint folder with its tokenizer and return its config.

    Args:
        folder: created if missing.
        config: fields of `config.json` that replace those of `SMALL_CONFIG`; `rope_parameters` is merged.
        seed: of the weights; the same seed gives the same files.
        shards: number of weight files; above 1 with an index.
        lora: whether to add a drafter LoRA that changes the drafts.
        dtype: of the weights and of the adapter.

    The weights are scaled so that greedy output varies, confidences spread over (0, 1) and a draft is
    sometimes accepted. The folder is written as a whole or not at all. Raises `ValueError` for absurd fields, for a
    model larger than this machine's memory, and for fewer than one shard or more than there are tensors.
    """
    fields = _merge(config or {})
    checked = NemotronLabsDiffusionConfig(**{**fields, "model_type": MODEL_TYPE})
    _check_size(checked)
    most = len(expected_shapes(checked))
    if not 1 <= shards <= most:
        raise ValueError(f"--shards: got {shards}, expected 1 to {most}, the number of tensors")
    with writing(folder) as output:
        write_tokenizer(output.part, checked.vocab_size)
        write_config(output.part, {**fields, "torch_dtype": str(dtype).removeprefix("torch.")})
        generator = torch.Generator().manual_seed(seed)
        write_tensors(output.part, random_tensors(checked, generator), shards, dtype)
        if lora:
            random_lora(checked, generator).save(output.part, dtype)
    return checked


def write_config(folder: str | Path, fields: dict[str, Any]) -> None:
    """Write `config.json` with `fields` and what every published config carries."""
    content = json.dumps({**_PUBLISHED_FIELDS, **fields}, indent=2) + "\n"
    (Path(folder) / "config.json").write_text(content, encoding="utf-8")


def write_tensors(
    folder: str | Path, tensors: dict[str, torch.Tensor], shards: int = 1, dtype: torch.dtype | None = None
) -> None:
    """Write weights as one safetensors file, or as `shards` files with an index."""
    folder = Path(folder)
    tensors = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def random_tensors(
    config: NemotronLabsDiffusionConfig, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return float32 weights under the published names.

    Sharp attention and a faint mask embedding make a masked position depend on its place and its context, and
    rows of the head of unlike size make some tokens frequent: otherwise a block is one repeated token, never
    accepted.
    """
    tensors = {}
    for name, shape in expected_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            tensors[name] = 1.0 + 0.1 * noise
        elif name == "encoder.embed_tokens.weight":
            noise[config.mask_token_id] *= _MASK_EMBEDDING_STD
            tensors[name] = noise
        elif name == "diffusion_head.weight":
            row_gain = torch.exp(_HEAD_ROW_SPREAD * torch.randn(shape[0], 1, generator=generator))
            row_gain = row_gain / row_gain.square().mean().sqrt()
            tensors[name] = noise * row_gain * _HEAD_LOGIT_STD / math.sqrt(config.hidden_size)
        else:
            sharp = name.split(".")[-2] in ("q_proj", "k_proj", "o_proj")
            tensors[name] = noise * (_ATTENTION_GAIN if sharp else 1.0) / math.sqrt(shape[1])
    return tensors


def random_lora(config: NemotronLabsDiffusionConfig, generator: torch.Generator) -> DrafterLora:
    """Return an adapter whose addition is about as large as what `o_proj` yields without it."""
    adapter = DrafterLora.create(config, _LORA_RANK, _LORA_ALPHA, generator)
    for b in adapter.b:
        b.data = torch.randn(b.shape, generator=generator) / (adapter.scale * math.sqrt(_LORA_RANK))
    return adapter


def _check_size(config: NemotronLabsDiffusionConfig) -> None:
    shape = ModelShape(
        "",
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
    )
    needed, memory = 4 * shape.parameters, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise ValueError(
            f"a model of these sizes has {shape.parameters:.2e} parameters, {needed / 1e9:.3g} GB in float32; expected "
            f"one that fits into this machine's {memory / 1e9:.0f} GB"
        )


def _merge(config: dict[str, Any]) -> dict[str, Any]:
    rope = {**SMALL_CONFIG["rope_parameters"], **config.get("rope_parameters", {})}
    return {**SMALL_CONFIG, **config, "rope_parameters": rope}
