"""The configuration class, so that transformers needs no remote code."""

import logging
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from transformers import PreTrainedConfig

MODEL_TYPE = "nemotron_labs_diffusion"
_logger = logging.getLogger("nemotron_diffusion_plugin")

_REQUIRED: Any = None
_ROPE_DEFAULTS: dict[str, float] = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}


class NemotronLabsDiffusionConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of Nemotron-Labs-Diffusion (docs/model.md, 1.1 and 1.2).

    Fields without a safe default (sizes, head counts, `head_dim`, `mask_token_id`, the rope fields) are
    required: a `config.json` without one of them raises `ValueError` naming the field. The rope fields may be
    spelled `rope_parameters`, or `rope_scaling` with `rope_theta` beside it; both end up in
    `rope_parameters`. Unsupported values (biases, sliding windows, tied embeddings) raise instead of being
    ignored. A `max_position_embeddings` past what YaRN covers is lowered to that, with a warning: engines tabulate
    `original_max_position_embeddings * factor` rotations and read past the end.
    """

    model_type = MODEL_TYPE
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    ignore_keys_at_rope_validation: ClassVar[set[str]] = {"llama_4_scaling_beta", "max_position_embeddings"}

    vocab_size: int = _REQUIRED
    hidden_size: int = _REQUIRED
    intermediate_size: int = _REQUIRED
    num_hidden_layers: int = _REQUIRED
    num_attention_heads: int = _REQUIRED
    num_key_value_heads: int = _REQUIRED
    head_dim: int = _REQUIRED
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = _REQUIRED
    rope_parameters: dict[str, Any] = _REQUIRED
    mask_token_id: int = _REQUIRED
    block_size: int = 32
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        rope_scaling = kwargs.pop("rope_scaling", None)
        rope_theta = kwargs.pop("rope_theta", None)
        kwargs.pop("llama_4_scaling", None)
        self.rope_parameters = _rope_fields(self.rope_parameters, rope_scaling, rope_theta)
        _validate(self)
        self.max_position_embeddings = _covered(self.max_position_embeddings, self.rope_parameters)
        super().__post_init__(**kwargs)

    @property
    def rope_theta(self) -> float | None:
        """The base of the rotary frequencies, mirrored from `rope_parameters`."""
        return self.rope_parameters.get("rope_theta")

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**self.rope_parameters, "rope_theta": value}

    @property
    def llama_4_scaling(self) -> dict[str, float] | None:
        """The query scale in the spelling of Mistral classes, None without one (docs/model.md, 1.2)."""
        rope = self.rope_parameters
        if rope.get("llama_4_scaling_beta") is None:
            return None
        return {
            "original_max_position_embeddings": rope["original_max_position_embeddings"],
            "beta": rope["llama_4_scaling_beta"],
        }


def _rope_fields(parameters: object, scaling: object, theta: object) -> dict[str, Any]:
    name = "rope_parameters" if parameters else "rope_scaling"
    raw = parameters or scaling
    if raw is None:
        raise ValueError("field 'rope_parameters': missing, expected an object with rope_type and rope_theta")
    if not isinstance(raw, Mapping):
        raise ValueError(f"field '{name}': got {raw!r}, expected an object with rope_type and rope_theta")
    rope = dict(raw)
    legacy_type = rope.pop("type", None)
    rope.setdefault("rope_type", legacy_type or "default")
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = theta
    if rope["rope_type"] == "yarn":
        rope = {**_ROPE_DEFAULTS, **{key: value for key, value in rope.items() if value is not None}}
    return rope


def _validate(config: NemotronLabsDiffusionConfig) -> None:
    for field in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "block_size",
    ):
        _require_int(field, getattr(config, field), minimum=1)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise _unexpected("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
    if config.head_dim % 2:
        raise _unexpected("head_dim", config.head_dim, "an even integer, because RoPE rotates pairs")
    _require_int("mask_token_id", config.mask_token_id, minimum=0)
    if config.mask_token_id >= config.vocab_size:
        raise _unexpected(
            "mask_token_id", config.mask_token_id, f"an id below vocab_size ({config.vocab_size})"
        )
    if config.block_size > config.max_position_embeddings:
        limit = config.max_position_embeddings
        raise _unexpected("block_size", config.block_size, f"at most max_position_embeddings ({limit})")
    _require_number("rms_norm_eps", config.rms_norm_eps, above=0.0)
    _require_only("hidden_act", config.hidden_act, "silu")
    _require_only("attention_bias", config.attention_bias, False)
    _require_only("mlp_bias", config.mlp_bias, False)
    _require_only("tie_word_embeddings", config.tie_word_embeddings, False)
    _require_only("sliding_window", config.sliding_window, None)
    _validate_eos(config)
    _validate_rope(config.rope_parameters)


def covered_positions(rope_parameters: Mapping[str, Any]) -> int | None:
    """The positions for which there are rotations (docs/model.md, 1.2); None where there is no bound."""
    if rope_parameters.get("rope_type") != "yarn":
        return None
    return int(rope_parameters["original_max_position_embeddings"] * rope_parameters["factor"])


def _covered(positions: int, rope: Mapping[str, Any]) -> int:
    covered = covered_positions(rope)
    if covered is None or positions <= covered:
        return positions
    _warn_of_context(positions, covered)
    return covered


@cache
def _warn_of_context(positions: int, covered: int) -> None:
    """Say once in a process that a context is shorter than the checkpoint states."""
    _logger.warning(
        "config.json: max_position_embeddings is %d, but rope_parameters cover %d positions "
        "(original_max_position_embeddings times factor): the longest context is %d",
        positions,
        covered,
        covered,
    )


def _validate_eos(config: NemotronLabsDiffusionConfig) -> None:
    eos = config.eos_token_id
    for token in eos if isinstance(eos, list) else [] if eos is None else [eos]:
        _require_int("eos_token_id", token, minimum=0)


def _validate_rope(rope: dict[str, Any]) -> None:
    if rope["rope_type"] not in ("yarn", "default"):
        raise _unexpected("rope_parameters.rope_type", rope["rope_type"], "'yarn' or 'default'")
    _require_number("rope_parameters.rope_theta", rope.get("rope_theta"), above=1.0)
    if rope["rope_type"] == "yarn":
        _require_number("rope_parameters.factor", rope.get("factor"), above=0.0)
        for field in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            _require_number(f"rope_parameters.{field}", rope[field], above=0.0)
        if rope["beta_fast"] <= rope["beta_slow"]:
            expected = f"more than beta_slow ({rope['beta_slow']})"
            raise _unexpected("rope_parameters.beta_fast", rope["beta_fast"], expected)
    beta = rope.get("llama_4_scaling_beta")
    if beta is not None:
        _require_number("rope_parameters.llama_4_scaling_beta", beta, above=None)
    if rope["rope_type"] == "yarn" or beta is not None:
        field = "original_max_position_embeddings"
        _require_int(f"rope_parameters.{field}", rope.get(field), minimum=1)


def _require_int(field: str, value: object, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise _unexpected(field, value, f"an integer >= {minimum}")


def _require_number(field: str, value: object, *, above: float | None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (above is not None and value <= above):  # type: ignore[operator]
        raise _unexpected(
            field, value, "a finite number" if above is None else f"a finite number > {above:g}"
        )


def _require_only(field: str, value: object, supported: object) -> None:
    if value != supported or type(value) is not type(supported):
        raise _unexpected(field, value, f"{supported!r}, the only supported value")


def _unexpected(field: str, value: object, expected: str) -> ValueError:
    if value is None:
        return ValueError(f"field '{field}': missing, expected {expected}")
    return ValueError(f"field '{field}': got {value!r}, expected {expected}")
