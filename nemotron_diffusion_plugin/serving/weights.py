"""Checks of a checkpoint's tensors while an engine loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import find_names


def checked(
    weights: Iterable[tuple[str, torch.Tensor]], names: list[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors and append each name to `names`; raises `CheckpointError` for NaN or infinity."""
    for name, tensor in weights:
        names.append(name)
        wide = tensor.is_floating_point() and tensor.element_size() > 1
        # A sum is finite only if every term is, and needs no second tensor of the weight's size.
        if wide and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise CheckpointError(f"tensor '{name}' holds NaN or infinite values")
        yield name, tensor


def damaged(
    folder: Path, found: Sequence[str], config: NemotronLabsDiffusionConfig, error: Exception
) -> CheckpointError:
    """Return the error to raise when reading broke off with `error`: it names the damaged file where there is one.

    `found` are the names read so far.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            find_names(path)
        except CheckpointError as damage:
            return damage
    expected = len(expected_shapes(config))
    return CheckpointError(f"{folder}: found {len(found)} of {expected} expected tensors, then: {error}")
