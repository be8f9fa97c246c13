"""What tells the architectures of the family apart: one `ModelSpec` each (docs/model.md, 1).

Another architecture is another spec in `SPECS`, a configuration class, and a model class in each engine's folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import AutoConfig

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """One architecture: its names, its tensors and what it can do.

    Attributes:
        architecture: what `architectures` in config.json holds; both engines find the model class by it.
        config_class: the transformers configuration; its `model_type` is that of config.json.
        tensors: returns the published tensor names with their shapes for a configuration.
        prefixes: how published tensor names begin, and how the engines' model classes begin theirs instead. The first
            prefix that fits counts, so a longer one stands before its beginning.
        decoder: the prefix of the decoder's layers and norms; another one in a file is pointed out.
        lora_folder: the folder of the drafter LoRA, beside the weights or in the hub repository.
        takes_images: whether a prompt may hold images; all architectures take text.
    """

    architecture: str
    config_class: type[NemotronLabsDiffusionConfig]
    tensors: Callable[[NemotronLabsDiffusionConfig], Shapes]
    prefixes: Mapping[str, str]
    decoder: str
    lora_folder: str
    takes_images: bool = False

    @property
    def model_type(self) -> str:
        """What `model_type` in config.json holds."""
        return self.config_class.model_type

    def is_kv_scale(self, name: str) -> bool:
        """Whether a published name is a layer's KV scale, which quantised community files carry; not read here."""
        layers = re.escape(f"{self.decoder}layers.")
        return re.fullmatch(rf"{layers}\d+\.self_attn\.(k_scale|v_scale)", name) is not None

    def lora_name(self, layer: int, half: str) -> str:
        """Return the published name of a layer's A or B (`half`) in the drafter LoRA."""
        return f"base_model.model.{self.decoder}layers.{layer}.self_attn.o_proj.lora_{half}.weight"

    def engine_name(self, name: str) -> str:
        """Return the engines' name of a published tensor; a name with no published prefix stays."""
        for published, engine in self.prefixes.items():
            if name.startswith(published):
                return engine + name[len(published) :]
        return name

    def renamed(self, weights: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """Yield tensors under the engines' names."""
        return ((self.engine_name(name), tensor) for name, tensor in weights)


def text_tensors(config: NemotronLabsDiffusionConfig) -> Shapes:
    """Return every tensor name of a text model with its shape: 9 per layer and 3 (docs/model.md, 1.3)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key_value = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    shapes: Shapes = {"encoder.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (query, hidden),
            f"{prefix}.self_attn.k_proj.weight": (key_value, hidden),
            f"{prefix}.self_attn.v_proj.weight": (key_value, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, query),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {
        "encoder.norm.weight": (hidden,),
        "diffusion_head.weight": (config.vocab_size, hidden),
    }


TEXT = ModelSpec(
    architecture="NemotronLabsDiffusionModel",
    config_class=NemotronLabsDiffusionConfig,
    tensors=text_tensors,
    prefixes={"encoder.": "model.", "diffusion_head.": "lm_head."},
    decoder="encoder.",
    lora_folder="linear_spec_lora",
)

SPECS = (TEXT,)
ARCHITECTURES = tuple(spec.architecture for spec in SPECS)


def spec_of(config: NemotronLabsDiffusionConfig) -> ModelSpec:
    """Return the spec that a configuration belongs to; raises KeyError for another model's."""
    return {spec.model_type: spec for spec in SPECS}[config.model_type]


def is_served(hf_config: Any) -> bool:
    """Whether a configuration that an engine has read names one of our architectures."""
    return any(name in ARCHITECTURES for name in hf_config.architectures or ())


def register() -> None:
    """Make `AutoConfig` load our `config.json` files without remote code; calling it again is harmless."""
    for spec in SPECS:
        AutoConfig.register(spec.model_type, spec.config_class, exist_ok=True)
