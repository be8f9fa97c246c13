"""Ways in which a checkpoint on disk may be broken."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
ADAPTER = "linear_spec_lora/adapter_model.safetensors"


def rename_prefix(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({f"language_model.{name}": tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


def lose_a_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(kept, folder / WEIGHTS)


def truncate(folder: Path) -> None:
    cut_in_half(folder / WEIGHTS)


def truncate_the_adapter(folder: Path) -> None:
    cut_in_half(folder / ADAPTER)


def halve_the_adapter(folder: Path) -> None:
    """Halve its rank, in the file and in its configuration."""
    halves = load_file(folder / ADAPTER)
    rank = next(iter(halves.values())).shape[0] // 2
    cut = {name: (half[:rank] if "lora_A" in name else half[:, :rank]) for name, half in halves.items()}
    save_file({name: half.contiguous() for name, half in cut.items()}, folder / ADAPTER)
    path = (folder / ADAPTER).with_name("adapter_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": rank}))


def cut_in_half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def shorten_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"][:-1].clone()
    save_file(tensors, folder / WEIGHTS)


def put_in_a_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["encoder.norm.weight"][3] = torch.nan
    save_file(tensors, folder / WEIGHTS)


def pickle_the_weights(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def shorten_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["factor"] = 2.0
    (folder / "config.json").write_text(json.dumps(config))


def leave(folder: Path) -> None:
    return None
