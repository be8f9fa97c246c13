"""The published tensor names and shapes, and the check of a file against them (docs/model.md, 1.3)."""

import re
from collections.abc import Collection, Mapping

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError

KV_SCALE = re.compile(r"encoder\.layers\.\d+\.self_attn\.(k_scale|v_scale)")
"""Per-layer scales that quantised community files carry; tolerated and not read here."""

_SHOWN = 4


def expected_shapes(config: NemotronLabsDiffusionConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor name of a checkpoint with its shape: 9 per layer and 3."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key_value = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    shapes: dict[str, tuple[int, ...]] = {"encoder.embed_tokens.weight": (config.vocab_size, hidden)}
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


def check_names(found: Collection[str], config: NemotronLabsDiffusionConfig) -> None:
    """Raise `CheckpointError` unless `found` holds exactly the expected names; KV scales may come on top."""
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and not KV_SCALE.fullmatch(name)]
    if not missing and not unknown:
        return
    prefix = _foreign_prefix(missing, unknown)
    if prefix is not None:
        raise CheckpointError(
            f"the names carry another prefix ({prefix}): found {_some(unknown)}; expected {_some(missing)}"
            ". Rename the tensors to the published names."
        )
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: expected {_some(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} tensors are unknown: found {_some(unknown)}")
    known = f"config.json describes {config.num_hidden_layers} layers, that is {len(expected)} tensors"
    raise CheckpointError(f"{'; '.join(problems)}. {known}; the file holds {len(found)}.")


def check_shapes(found: Mapping[str, tuple[int, ...]], config: NemotronLabsDiffusionConfig) -> None:
    """Raise `CheckpointError` unless names and shapes are the expected ones."""
    check_names(found, config)
    wrong = [
        f"{name}: found {list(found[name])}, expected {list(shape)}"
        for name, shape in expected_shapes(config).items()
        if tuple(found[name]) != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors have another shape than config.json says: {'; '.join(wrong[:_SHOWN])}"
        )


def _foreign_prefix(missing: list[str], unknown: list[str]) -> str | None:
    for name in unknown:
        for wanted in missing:
            if name.endswith(f".{wanted}"):
                return f"'{name.removesuffix(wanted)}' before the published name"
        for wanted in missing:
            bare = wanted.removeprefix("encoder.")
            if bare != wanted and (name == bare or name.endswith(f".{bare}")):
                return f"'{name.removesuffix(bare)}' instead of 'encoder.'"
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
