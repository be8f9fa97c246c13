"""The shape of the bundled tiny model."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.tools.training.tokenizer import BOS_ID, EOS_ID, MASK_ID

VOCAB_SIZE = 1024
BLOCK_SIZE = 32
LORA_RANK = 16
LORA_ALPHA = 64


def tiny_config() -> dict[str, Any]:
    """Return ``config.json`` of the tiny model: every published field at a small size (docs/model.md, 1.1 and 1.2)."""
    return {
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": "nemotron_labs_diffusion",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        "mask_token_id": MASK_ID,
        "block_size": BLOCK_SIZE,
        "dlm_paradigm": "bidirectional",
        "dlm_loss_weight": None,
        "ar_loss_weight": 1.0,
        "dp_varying_mask_ratio": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": None,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }
