"""The drafter LoRA: a low-rank addition to every `o_proj` (docs/model.md, 1.5)."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.reader import find_names, read_files
from nemotron_diffusion_plugin.model.spec import TEXT, ModelSpec, spec_of

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILE = "adapter_model.safetensors"
TARGETS = ["o_proj"]


class DrafterLora(nn.Module):
    """`o_proj(x) + scale * B(A(x))` in every layer; active in the draft forward only.

    `a[layer]` is `[rank, heads * head_dim]`, `b[layer]` is `[hidden_size, rank]`, `scale` is `alpha / rank`.
    """

    def __init__(
        self, a: list[torch.Tensor], b: list[torch.Tensor], alpha: float, spec: ModelSpec = TEXT
    ) -> None:
        super().__init__()
        self.a = nn.ParameterList(nn.Parameter(weight) for weight in a)
        self.b = nn.ParameterList(nn.Parameter(weight) for weight in b)
        self.rank = a[0].shape[0]
        self.alpha = alpha
        self.scale = alpha / self.rank
        self.spec = spec

    @classmethod
    def create(
        cls,
        config: NemotronLabsDiffusionConfig,
        rank: int,
        alpha: float,
        generator: torch.Generator | None = None,
    ) -> "DrafterLora":
        """Return an adapter to train, float32: A uniform, B zero, so that it changes nothing yet."""
        inputs = config.num_attention_heads * config.head_dim
        bound = 1.0 / math.sqrt(inputs)
        layers = range(config.num_hidden_layers)
        a = [(torch.rand(rank, inputs, generator=generator) * 2.0 - 1.0) * bound for _ in layers]
        b = [torch.zeros(config.hidden_size, rank) for _ in layers]
        return cls(a, b, alpha, spec_of(config))

    @classmethod
    def load(
        cls, folder: str | Path, config: NemotronLabsDiffusionConfig, dtype: torch.dtype | None = None
    ) -> "DrafterLora | None":
        """Read the adapter of a checkpoint folder; None when the checkpoint has none (base models).

        `dtype` None keeps the stored one. Raises `CheckpointError` for an adapter this model cannot use.
        """
        spec = spec_of(config)
        adapter = Path(folder) / spec.lora_folder
        if not adapter.is_dir():
            return None
        rank, alpha = read_adapter_config(adapter / CONFIG_FILE)
        names = adapter_shapes(config, rank)
        path = adapter / WEIGHT_FILE
        found = find_names(path)
        missing, unknown = sorted(names.keys() - found), sorted(found - names.keys())
        if missing or unknown:
            raise CheckpointError(
                f"{path}: {len(missing)} tensors missing (expected {missing[:2]}), "
                f"{len(unknown)} unknown (found {unknown[:2]})"
            )
        tensors = read_files({path: list(names)}, dtype)
        for name, shape in names.items():
            if tensors[name].shape != shape:
                raise CheckpointError(
                    f"{path}: tensor '{name}': found {list(tensors[name].shape)}, expected {list(shape)}"
                )
        ordered = [tensors[name] for name in names]
        return cls(ordered[0::2], ordered[1::2], alpha, spec)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the adapter into a checkpoint folder in the published format."""
        adapter = Path(folder) / self.spec.lora_folder
        adapter.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for layer, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            for half, weight in (("A", a), ("B", b)):
                tensors[self.spec.lora_name(layer, half)] = (
                    weight.detach().to(dtype or weight.dtype).contiguous().cpu()
                )
        save_file(tensors, adapter / WEIGHT_FILE, metadata={"format": "pt"})
        (adapter / CONFIG_FILE).write_text(
            json.dumps(self._adapter_config(), indent=2) + "\n", encoding="utf-8"
        )

    def delta(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Return what the adapter adds to `o_proj(x)`: `[..., heads * head_dim]` to `[..., hidden_size]`."""
        a, b = self.a[layer].to(x.dtype), self.b[layer].to(x.dtype)
        return nn.functional.linear(nn.functional.linear(x, a), b) * self.scale

    def _adapter_config(self) -> dict[str, Any]:
        alpha = int(self.alpha) if float(self.alpha).is_integer() else self.alpha
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": TARGETS,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "fan_in_fan_out": False,
            "modules_to_save": None,
        }


def adapter_shapes(config: NemotronLabsDiffusionConfig, rank: int) -> dict[str, tuple[int, int]]:
    """Return the adapter's tensor names with their shapes, A before B in every layer."""
    spec, inputs = spec_of(config), config.num_attention_heads * config.head_dim
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(config.num_hidden_layers):
        shapes[spec.lora_name(layer, "A")] = (rank, inputs)
        shapes[spec.lora_name(layer, "B")] = (config.hidden_size, rank)
    return shapes


def read_adapter_config(path: Path) -> tuple[int, float]:
    """Return rank and alpha; raises `CheckpointError` for anything but a plain LoRA on `o_proj`."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        fields = dict(raw)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing, expected the drafter LoRA's configuration") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as a JSON object: {error}") from None
    _require(path, fields, "peft_type", "LORA")
    if fields.get("target_modules") != "o_proj":
        _require(path, fields, "target_modules", TARGETS)
    for field, supported in (
        ("bias", "none"),
        ("use_rslora", False),
        ("use_dora", False),
        ("fan_in_fan_out", False),
    ):
        if fields.get(field) is not None:
            _require(path, fields, field, supported)
    for field in (
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "exclude_modules",
    ):
        if fields.get(field):
            raise CheckpointError(
                f"{path}: field '{field}': got {fields[field]!r}, expected it empty or absent"
            )
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{path}: field 'r': got {rank!r}, expected an integer >= 1")
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, int | float)
        or not math.isfinite(alpha)
        or alpha <= 0
    ):
        raise CheckpointError(f"{path}: field 'lora_alpha': got {alpha!r}, expected a number > 0")
    return rank, float(alpha)


def _require(path: Path, fields: dict[str, Any], field: str, supported: object) -> None:
    if fields.get(field) != supported:
        raise CheckpointError(f"{path}: field '{field}': got {fields.get(field)!r}, expected {supported!r}")
