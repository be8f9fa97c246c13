"""Finding the drafter LoRA's files: beside a local checkpoint or in its hub repository."""

from __future__ import annotations

import logging
from pathlib import Path

from nemotron_diffusion_plugin.checkpoint.lora import FOLDER, DrafterLora
from nemotron_diffusion_plugin.config import NemotronLabsDiffusionConfig

_logger = logging.getLogger("nemotron_diffusion_plugin")


def find_drafter_lora(
    model: str,
    config: NemotronLabsDiffusionConfig,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    logger: logging.Logger = _logger,
) -> DrafterLora | None:
    """Read the adapter that belongs to `model`, a folder or a hub repository; None for a base model, which has none.

    `revision` and `cache_dir` are those of the hub, `logger` is one that the engine shows. Raises `CheckpointError`
    for an adapter that does not fit the model.
    """
    lora = DrafterLora.load(_folder(model, revision, cache_dir), config)
    if lora is None:
        logger.info("no %s in the checkpoint: self-speculation drafts with the base weights", FOLDER)
    else:
        logger.info("drafter LoRA loaded: r=%d, alpha=%g", lora.rank, lora.alpha)
    return lora


def _folder(model: str, revision: str | None, cache_dir: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(model, revision=revision, cache_dir=cache_dir, allow_patterns=[f"{FOLDER}/*"])
    )
