"""What no engine can honour for this model: parameters in diffusion, counts without a place, too long a context."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError


def penalties_of(params: Any) -> dict[str, tuple[object, object]]:
    """The value and the neutral value of the sampling parameters that both engines name alike."""
    return {
        "top_p": (params.top_p, 1.0),
        "min_p": (params.min_p, 0.0),
        "presence_penalty": (params.presence_penalty, 0.0),
        "frequency_penalty": (params.frequency_penalty, 0.0),
        "repetition_penalty": (params.repetition_penalty, 1.0),
        "logit_bias": (params.logit_bias or None, None),
    }


def refuse_in_diffusion(
    active: Mapping[str, tuple[object, object]],
    options: DecodingOptions,
    constraints: Collection[str] = (),
) -> None:
    """Raise `OptionError` for the first sampling parameter that is not neutral.

    A block is committed by confidence and in any order, so what rewrites the distribution of the next token has no
    defined meaning there. Temperature and seed act as in the published generator (docs/model.md, 3.2).

    Args:
        active: value and neutral value of each parameter, by the name that requests give it.
        options: the options of the request, in mode diffusion.
        constraints: names whose value may be long: shown as "a constraint".
    """
    for name, (value, neutral) in active.items():
        if value != neutral:
            shown = "a constraint" if name in constraints else repr(value)
            raise OptionError(
                f"field '{name}': got {shown}, expected {neutral!r} with decoding_mode "
                f"'{options.decoding_mode.value}'; use decoding_mode 'auto', 'ar' or 'self_speculation'"
            )


def refuse_all_but_ar(options: DecodingOptions, defaults: DecodingOptions, speculator: str) -> None:
    """Raise `OptionError` for a mode that does not exist where another `speculator` runs, or none."""
    if options != defaults and options.decoding_mode is not DecodingMode.AR:
        raise OptionError(
            f"field 'decoding_mode': got '{options.decoding_mode.value}', expected 'ar': "
            f"this server was started with another {speculator}"
        )


def refuse_counts(options: DecodingOptions, reason: str) -> None:
    """Raise `OptionError` where a request asks for its counts and `reason` says why there are none."""
    if options.return_counts:
        raise OptionError(f"field 'return_counts': got true, expected false: {reason}")


def check_context_length(rope_parameters: Mapping[str, Any], max_model_len: int, flag: str) -> None:
    """Raise ValueError for a context longer than the rotations an engine tabulates; `flag` is the one that sets it.

    Engines tabulate `original_max_position_embeddings * factor` positions of YaRN and read past the end.
    """
    if rope_parameters.get("rope_type") != "yarn":
        return
    covered = int(rope_parameters["original_max_position_embeddings"] * rope_parameters["factor"])
    if max_model_len > covered:
        raise ValueError(
            f"{flag.lstrip('-').replace('-', '_')}: got {max_model_len}, expected at most {covered}, which is the "
            f"checkpoint's rope_parameters.original_max_position_embeddings times its factor; use {flag}"
        )
