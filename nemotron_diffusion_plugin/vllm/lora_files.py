"""Finding the drafter LoRA's files: beside a local checkpoint or in its hub repository."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.checkpoint.lora import FOLDER, DrafterLora

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


def load_drafter_lora(vllm_config: Any) -> DrafterLora | None:
    """Read the adapter that belongs to the served checkpoint; None for a base model, which has none.

    Raises `CheckpointError` for an adapter that does not fit the model.
    """
    folder = _checkpoint_folder(vllm_config)
    lora = None if folder is None else DrafterLora.load(folder, vllm_config.model_config.hf_config)
    if lora is None:
        logger.info("no %s in the checkpoint: self-speculation drafts with the base weights", FOLDER)
    else:
        logger.info("drafter LoRA loaded: r=%d, alpha=%g", lora.rank, lora.alpha)
    return lora


def _checkpoint_folder(vllm_config: Any) -> Path | None:
    model = vllm_config.model_config.model
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            model,
            revision=vllm_config.model_config.revision,
            cache_dir=vllm_config.load_config.download_dir,
            allow_patterns=[f"{FOLDER}/*"],
        )
    )
