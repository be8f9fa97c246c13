"""Finding the drafter LoRA's files: beside a local checkpoint or in its hub repository."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.lora import CONFIG_FILE, FOLDER, DrafterLora, read_adapter_config

_logger = logging.getLogger("nemotron_diffusion_plugin")
_DUMMY_SIZE = 1e-3
"""As large as the weights that both engines draw."""


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


def dummy_drafter_lora(
    model: str, config: NemotronLabsDiffusionConfig, logger: logging.Logger = _logger
) -> DrafterLora | None:
    """Return an adapter of random values for a server without weights (load format dummy), so that its cost is there.

    Its rank is that of the checkpoint's `adapter_config.json`; None where there is none. Raises `CheckpointError` for a
    configuration that is not that of a drafter LoRA.
    """
    path = Path(model) / FOLDER / CONFIG_FILE
    if not path.is_file():
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    with torch.device("cpu"):
        lora = DrafterLora.create(config, *read_adapter_config(path), generator)
        for b in lora.b:
            b.data.uniform_(-_DUMMY_SIZE, _DUMMY_SIZE, generator=generator)
    logger.info("drafter LoRA of random values: r=%d", lora.rank)
    return lora.requires_grad_(False)


def _folder(model: str, revision: str | None, cache_dir: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(model, revision=revision, cache_dir=cache_dir, allow_patterns=[f"{FOLDER}/*"])
    )
