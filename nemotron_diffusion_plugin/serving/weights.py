"""Loading a checkpoint through an engine's own loader: what both engines check, and the drafter LoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.lora import DrafterLora, adapter_shapes
from nemotron_diffusion_plugin.model.names import check_names, expected_shapes
from nemotron_diffusion_plugin.model.reader import find_names, find_tensors
from nemotron_diffusion_plugin.model.spec import spec_of
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch
from nemotron_diffusion_plugin.serving.lora_files import (
    Source,
    checkpoint_folder,
    dummy_drafter_lora,
    find_drafter_lora,
    has_drafter_weights,
)

Weights = Iterable[tuple[str, torch.Tensor]]


class CheckpointLoader:
    """Loads the tensors of one model and its drafter LoRA, and later updates of them.

    The first load must bring every tensor of the checkpoint. An update brings some, or, inside `update_from`, another
    checkpoint. What it does not bring stays as it is, the drafter LoRA too.

    Attributes:
        config: the checkpoint's.
        quantized: whether the tensors have other names than the published ones, so that no names are checked.
        place: takes the adapter into the model.
        branches: returns the model's branches, one for each layer.
        logger: one that the engine shows.
        complete: whether the model has weights.
    """

    def __init__(
        self,
        config: NemotronLabsDiffusionConfig,
        *,
        quantized: bool,
        place: Callable[[DrafterLora], None],
        branches: Callable[[], Sequence[LowRankBranch]],
        logger: logging.Logger,
    ) -> None:
        self.config = config
        self.quantized = quantized
        self.place = place
        self.branches = branches
        self.logger = logger
        self.complete = False
        self._drawn = False
        self._is_checked = False

    @property
    def rank(self) -> int | None:
        """The rank of the adapter that the model drafts with; None without one."""
        return self.branches()[0].rank

    def load(self, weights: Weights, take: Callable[[Weights], Any], source: Source) -> Any:
        """Hand the published tensors to the engine's `take` under its names, and return what that returns.

        Raises `CheckpointError` naming the tensors found and expected when they do not match, and the file or tensor
        that is damaged. Other errors of the engine come through. Of an update that comes as a collection nothing is
        taken then.
        """
        if self.complete:
            return self._update(weights, take, source)
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
        self._place(find_drafter_lora(source, self.config, self.logger))
        return loaded

    def draw_lora(self, source: Source) -> None:
        """After load format dummy, which brings no tensors, draw the drafter LoRA too."""
        if not self.complete:
            self._place(dummy_drafter_lora(source, self.config, self.logger))
            self._drawn = True

    @contextmanager
    def update_from(self, source: Source) -> Iterator[None]:
        """Check a whole checkpoint, let the engine load it in the block, and take its adapter when the block is done.

        A checkpoint without an adapter leaves the one that is loaded. Reads every file once, so that the engine's own
        pass finds it in the page cache. Raises `CheckpointError` before the block for names, shapes, values or an
        adapter that this model cannot take.
        """
        folder = checkpoint_folder(source, self.config)
        files = find_tensors(folder)
        self._check_names(list(files))
        for _ in self._known(_read(files.values()), {}):
            pass
        lora = DrafterLora.load(folder, self.config)
        self._check_rank(lora)
        self._is_checked = True
        try:
            yield
        finally:
            self._is_checked = False
        if lora is not None:
            self._place(lora)
            self.logger.info("drafter LoRA updated: r=%d, alpha=%g", lora.rank, lora.alpha)
        elif self.rank is not None:
            self.logger.warning("no drafter LoRA in %s: the one that was loaded before stays", folder)

    def _place(self, lora: DrafterLora | None) -> None:
        if lora is not None:
            self.place(lora)
        self.complete, self._drawn = True, False

    def _check_names(self, found: list[str]) -> None:
        if not self.quantized:
            check_names(found, self.config)

    def _check_rank(self, lora: DrafterLora | None) -> None:
        if lora is not None and lora.rank != self.rank:
            raise CheckpointError(
                f"drafter LoRA: got rank {lora.rank}, expected {self.rank or 'no adapter'}, as this server was started "
                "with; start it anew with the other checkpoint"
            )

    def _update(self, weights: Weights, take: Callable[[Weights], Any], source: Source) -> Any:
        stored = find_drafter_lora(source, self.config, self.logger) if self._is_stored(source) else None
        adapter: dict[tuple[int, str], torch.Tensor] = {}
        tensors: Weights = self._known(weights, adapter)
        if isinstance(weights, Collection):
            try:
                tensors = list(tensors)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; none of the {len(weights)} tensors sent with it was taken"
                ) from None
        loaded = take(spec_of(self.config).renamed(tensors))
        if stored is not None:
            self._place(stored)
        for (layer, half), tensor in adapter.items():
            self.branches()[layer].replace(half, tensor)
        return loaded

    def _is_stored(self, source: Source) -> bool:
        """Whether an adapter was drawn though there is a stored one."""
        return self._drawn and has_drafter_weights(source, self.config)

    def _known(
        self, weights: Weights, adapter: dict[tuple[int, str], torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield an update's tensors of the model and put those of the drafter LoRA into `adapter`."""
        spec, published = spec_of(self.config), expected_shapes(self.config)
        shapes = published | {spec.engine_name(name): shape for name, shape in published.items()}
        halves = adapter_shapes(self.config, self.rank or 0)
        places = {name: (place // 2, "AB"[place % 2]) for place, name in enumerate(halves)}
        for name, tensor in weights if self._is_checked else checked(weights, []):
            if name in halves:
                if self.rank is None:
                    raise CheckpointError(
                        f"tensor '{name}': expected none of a drafter LoRA, as this server was started without one"
                    )
                _check(name, tensor, halves[name])
                adapter[places[name]] = tensor
                continue
            if name in shapes and not self.quantized:
                _check(name, tensor, shapes[name])
            elif not (self.quantized or spec.is_kv_scale(name)):
                raise CheckpointError(
                    f"tensor '{name}' is unknown: expected the published names, such as '{next(iter(published))}'"
                )
            yield name, tensor


def checked(weights: Weights, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors and append each name to `names`; raises `CheckpointError` for NaN or infinity."""
    for name, tensor in weights:
        names.append(name)
        if not _is_finite(tensor):
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


def _read(files: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(set(files)):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; NaN is the least and the greatest value of what it is in.

    True also for what is not looked at: whole numbers, 8 bits, and subclasses, which may stand in for values to come.
    """
    has_values = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.numel() > 0
    if not has_values or not tensor.is_floating_point() or tensor.element_size() == 1:
        return True
    return all(map(torch.isfinite, torch.aminmax(tensor)))


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"tensor '{name}': got shape {list(tensor.shape)}, expected {list(shape)}")
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor '{name}': got {tensor.dtype}, expected floating point")
