"""Finding the drafter LoRA's files: beside a local checkpoint or in its hub repository."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import (
    CONFIG_FILE,
    WEIGHT_FILE,
    DrafterLora,
    read_adapter_config,
)
from nemotron_diffusion_plugin.model.spec import spec_of

_logger = logging.getLogger("nemotron_diffusion_plugin")
_DUMMY_SIZE = 1e-3
"""As large as the weights that both engines draw."""


@dataclass(frozen=True)
class Source:
    """Where a server's checkpoint is: a folder or a hub repository, with the hub's `revision` and `cache_dir`."""

    model: str
    revision: str | None = None
    cache_dir: str | None = None


def find_drafter_lora(
    source: Source, config: NemotronLabsDiffusionConfig, logger: logging.Logger = _logger
) -> DrafterLora | None:
    """Read the adapter that belongs to a checkpoint; None for a base model, which has none.

    `logger` is one that the engine shows. Raises `CheckpointError` for an adapter that does not fit the model.
    """
    name = spec_of(config).lora_folder
    lora = DrafterLora.load(_folder(source, [f"{name}/*"]), config)
    if lora is None:
        logger.info("no %s in the checkpoint: self-speculation drafts with the base weights", name)
    else:
        logger.info("drafter LoRA loaded: r=%d, alpha=%g", lora.rank, lora.alpha)
    return lora


def dummy_drafter_lora(
    source: Source, config: NemotronLabsDiffusionConfig, logger: logging.Logger = _logger
) -> DrafterLora | None:
    """Return an adapter of random values for a server without weights (load format dummy), so that its cost is there.

    Its rank is that of the checkpoint's `adapter_config.json`; None where there is none. Raises `CheckpointError` for a
    configuration that is not that of a drafter LoRA.
    """
    path = Path(source.model) / spec_of(config).lora_folder / CONFIG_FILE
    if not path.is_file():
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    with torch.device("cpu"):
        lora = DrafterLora.create(config, *read_adapter_config(path), generator)
        for b in lora.b:
            b.data.uniform_(-_DUMMY_SIZE, _DUMMY_SIZE, generator=generator)
    logger.info("drafter LoRA of random values: r=%d", lora.rank)
    return lora.requires_grad_(False)


def has_drafter_weights(source: Source, config: NemotronLabsDiffusionConfig) -> bool:
    """Whether a local checkpoint has an adapter with its weights."""
    return (Path(source.model) / spec_of(config).lora_folder / WEIGHT_FILE).is_file()


def checkpoint_folder(source: Source, config: NemotronLabsDiffusionConfig) -> Path:
    """Return the folder of a whole checkpoint; one in a hub repository is downloaded first.

    Raises `CheckpointError` for a path that leads nowhere.
    """
    if source.model.startswith((".", "/", "~")) and not Path(source.model).is_dir():
        raise CheckpointError(f"{source.model}: no such folder, expected one with a checkpoint")
    return _folder(source, ["*.safetensors", "*.safetensors.index.json", f"{spec_of(config).lora_folder}/*"])


def _folder(source: Source, patterns: list[str]) -> Path:
    if Path(source.model).is_dir():
        return Path(source.model)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source.model, revision=source.revision, cache_dir=source.cache_dir, allow_patterns=patterns
        )
    )
