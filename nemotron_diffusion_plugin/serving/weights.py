"""Loading a checkpoint through an engine's own loader: what both engines check, and the drafter LoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.model.names import check_names, expected_shapes
from nemotron_diffusion_plugin.model.reader import find_names
from nemotron_diffusion_plugin.model.spec import spec_of
from nemotron_diffusion_plugin.serving.lora_files import Source, dummy_drafter_lora, find_drafter_lora

Weights = Iterable[tuple[str, torch.Tensor]]


class CheckpointLoader:
    """Loads the tensors of one model and its drafter LoRA.

    The first load must bring every tensor of the checkpoint; later ones may bring some, as updates of weights do.

    Attributes:
        config: the checkpoint's.
        quantized: whether the tensors have other names than the published ones, so that no names are checked.
        place: takes the adapter into the model.
        logger: one that the engine shows.
        complete: whether the model has weights.
    """

    def __init__(
        self,
        config: NemotronLabsDiffusionConfig,
        *,
        quantized: bool,
        place: Callable[[DrafterLora], None],
        logger: logging.Logger,
    ) -> None:
        self.config = config
        self.quantized = quantized
        self.place = place
        self.logger = logger
        self.complete = False

    def load(self, weights: Weights, take: Callable[[Weights], Any], source: Source) -> Any:
        """Hand the published tensors to the engine's `take` under its names, and return what that returns.

        Raises `CheckpointError` naming the tensors found and expected when they do not match, and the file or tensor
        that is damaged. Other errors of the engine come through.
        """
        found: list[str] = []
        try:
            loaded = take(spec_of(self.config).renamed(checked(weights, found)))
        except CheckpointError:
            raise
        except SafetensorError as error:
            raise damaged(Path(source.model), found, self.config, error) from error
        except (AssertionError, KeyError, RuntimeError, ValueError):
            found.extend(name for name, _ in weights)
            self._check_names(found)
            raise
        self._check_names(found)
        if not self.complete:
            self._place(find_drafter_lora(source, self.config, self.logger))
        return loaded

    def draw_lora(self, source: Source) -> None:
        """After load format dummy, which brings no tensors, draw the drafter LoRA too."""
        if not self.complete:
            self._place(dummy_drafter_lora(source, self.config, self.logger))

    def _place(self, lora: DrafterLora | None) -> None:
        if lora is not None:
            self.place(lora)
        self.complete = True

    def _check_names(self, found: list[str]) -> None:
        if not (self.quantized or self.complete):
            check_names(found, self.config)


def checked(weights: Weights, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
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
