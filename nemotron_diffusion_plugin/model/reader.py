"""Reading a checkpoint folder: its config and its weights, single or sharded (docs/model.md, 1)."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import check_names, check_shapes, expected_shapes
from nemotron_diffusion_plugin.model.spec import SPECS

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def read_config(folder: str | Path) -> NemotronLabsDiffusionConfig:
    """Read `config.json`; raises `CheckpointError` for a missing or unreadable file or an absurd field."""
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no config.json, expected a folder with a checkpoint") from None
    except (json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: got a {type(raw).__name__}, expected an object")
    model_type = raw.pop("model_type", None)
    config_class = next((spec.config_class for spec in SPECS if spec.model_type == model_type), None)
    if config_class is None:
        expected = " or ".join(repr(spec.model_type) for spec in SPECS)
        raise CheckpointError(f"{path}: field 'model_type': got {model_type!r}, expected {expected}")
    try:
        return config_class(**raw)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def find_tensors(folder: str | Path) -> dict[str, Path]:
    """Return the file of every tensor name, from the one file or from the index of a sharded checkpoint.

    Raises `CheckpointError` when there is neither, when only pickle files are there, when a shard is missing,
    and when the index and the shards disagree.
    """
    folder = Path(folder)
    if (folder / INDEX_FILE).is_file():
        return _find_sharded(folder)
    if (folder / SINGLE_FILE).is_file():
        return dict.fromkeys(sorted(find_names(folder / SINGLE_FILE)), folder / SINGLE_FILE)
    present = sorted(
        path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".safetensors")
    )
    if any(not name.endswith(".safetensors") for name in present):
        raise CheckpointError(
            f"{folder}: safetensors only, found {', '.join(present)}; convert the checkpoint first"
        )
    found = f", found {', '.join(present)}" if present else ""
    raise CheckpointError(
        f"{folder}: no weights{found}; expected {SINGLE_FILE} or {INDEX_FILE} with its shards"
    )


def inspect_tensors(folder: str | Path, config: NemotronLabsDiffusionConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape without reading data; raises `CheckpointError` for wrong ones."""
    files = find_tensors(folder)
    check_names(files, config)
    shapes: dict[str, tuple[int, ...]] = {}
    for path, names in _by_file(files, files).items():
        with _open(path) as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    check_shapes(shapes, config)
    return shapes


def read_tensors(
    folder: str | Path, config: NemotronLabsDiffusionConfig, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Read every tensor of the published names, checked for names, shapes and finite values.

    `dtype` None keeps the stored one. Raises `CheckpointError` also for a truncated file.
    """
    return read_files(checked_files(folder, config), dtype)


def checked_files(folder: str | Path, config: NemotronLabsDiffusionConfig) -> dict[Path, list[str]]:
    """Return which tensors to read from which file, checked for names and shapes like `inspect_tensors`."""
    inspect_tensors(folder, config)
    return _by_file(find_tensors(folder), expected_shapes(config))


def read_files(files: dict[Path, list[str]], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Read the named tensors of each file; raises `CheckpointError` for a damaged file, NaN or infinity."""
    return {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in iterate_tensors(files)}


def iterate_tensors(files: dict[Path, list[str]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the named tensors of each file one by one; raises `CheckpointError` as `read_files` does."""
    for path, names in files.items():
        with _open(path) as file:
            for name in names:
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    raise CheckpointError(
                        f"{path}: tensor '{name}' is {tensor.dtype}, expected floating point"
                    )
                if not torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all():
                    raise CheckpointError(f"{path}: tensor '{name}' holds NaN or infinite values")
                yield name, tensor


def _find_sharded(folder: Path) -> dict[str, Path]:
    index_path = folder / INDEX_FILE
    try:
        weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
        named = {str(name): folder / str(file) for name, file in weight_map.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index_path}: expected an object with 'weight_map' (name to file): {error!r}"
        ) from None
    for path, names in _by_file(named, named).items():
        if path.parent != folder or path.suffix != ".safetensors":
            raise CheckpointError(
                f"{index_path}: names the file '{path.name}', expected a .safetensors file beside it"
            )
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: shard {path.name} is missing; {INDEX_FILE} puts {len(names)} tensors in it"
            )
        absent = sorted(set(names) - find_names(path))
        if absent:
            raise CheckpointError(
                f"{path}: {INDEX_FILE} expects the tensor '{absent[0]}' in it, but it is not there"
            )
    return named


def find_names(path: Path) -> set[str]:
    """Return the tensor names of one file; raises `CheckpointError` for a missing or damaged one."""
    with _open(path) as file:
        return set(file.keys())


def _by_file(files: dict[str, Path], names: Iterable[str]) -> dict[Path, list[str]]:
    grouped: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        grouped[files[name]].append(name)
    return grouped


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file: {error}") from None
