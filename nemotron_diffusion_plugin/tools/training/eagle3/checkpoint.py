"""A head's folder as both engines load it: the architecture LlamaForCausalLMEagle3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.tools.training.eagle3.head import Eagle3Head, HeadConfig

ARCHITECTURE = "LlamaForCausalLMEagle3"
WEIGHTS = "model.safetensors"
_SHAPE = (
    *("hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings", "rope_theta", "rms_norm_eps"),
)


def config_fields(config: HeadConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the fields of ``config.json``.

    The engines name the target's layers differently: vLLM reads `eagle_aux_hidden_state_layer_ids` as layers whose
    input it keeps, SGLang reads the field of that name inside `eagle_config` as layers whose output it keeps. Each
    field is written as its reader wants it.
    """
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        **{name: getattr(config, name) for name in _SHAPE},
        "draft_vocab_size": config.vocab_size,
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "eagle_aux_hidden_state_layer_ids": list(config.layers),
        "eagle_config": {
            "use_aux_hidden_state": True,
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in config.layers],
        },
    }


def save_head(folder: str | Path, head: Eagle3Head, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write ``config.json`` and the weights, rounded to ``dtype``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(config_fields(head.config, dtype), indent=2) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_head(folder: str | Path) -> Eagle3Head:
    """Read a folder that `save_head` has written, in float32.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds another architecture, or tensors that do not fit its config.
    """
    folder = Path(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if fields.get("architectures") != [ARCHITECTURE]:
        raise ValueError(
            f"{folder}: got architectures {fields.get('architectures')}, expected {ARCHITECTURE}"
        )
    layers = tuple(fields["eagle_aux_hidden_state_layer_ids"])
    head = Eagle3Head(HeadConfig(**{name: fields[name] for name in _SHAPE}, layers=layers))
    try:
        head.load_state_dict({name: t.float() for name, t in load_file(folder / WEIGHTS).items()})
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit its config.json: {error}") from error
    return head.eval().requires_grad_(False)
