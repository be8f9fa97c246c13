"""What no engine can honour for this model: parameters in diffusion, counts without a place, too long a context."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemotron_diffusion_plugin.model.config import covered_positions
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError

NEUTRAL: dict[str, object] = {
    "top_p": 1.0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""The sampling parameters that have no meaning in diffusion, for which a server may have defaults, and their neutral
values; `top_k` is one too, and neutral in each engine's own way."""


WITHOUT_MEANING = (*NEUTRAL, "top_k")


def unasked(request: Any) -> list[str]:
    """The parameters without a meaning in diffusion that an OpenAI request leaves to the server's defaults."""
    return [name for name in WITHOUT_MEANING if getattr(request, name, None) is None]


def say_what_diffusion_does_without(defaults: Mapping[str, Any], logger: logging.Logger) -> None:
    """Log which of a server's default sampling parameters are not applied in diffusion."""
    without = {name: value for name, value in defaults.items() if name in WITHOUT_MEANING}
    if without:
        logger.info("the server's default %s is not applied in diffusion, where it has no meaning", without)


def penalties_of(params: Any) -> dict[str, tuple[object, object]]:
    """The value and the neutral value of the sampling parameters that both engines name alike."""
    return {
        **{name: (getattr(params, name), neutral) for name, neutral in NEUTRAL.items()},
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


def refuse_constraints_in_diffusion(request: Any, options: DecodingOptions, one_call: bool = False) -> None:
    """Raise `OptionError` for a constraint that an OpenAI request asks for, in the words of that request.

    Engines turn these into grammars, and a block takes none. With `tool_choice` "auto" and no strict tool the answer
    is free, and only parsed.

    Args:
        request: a chat or a responses request of either engine.
        options: the options of the request, in mode diffusion.
        one_call: whether the engine keeps to one tool call by a grammar, and in no other way.
    """
    choice, tools = getattr(request, "tool_choice", None), getattr(request, "tools", None) or ()
    active: dict[str, tuple[object, object]] = {}
    if tools and choice not in (None, "none", "auto"):
        active["tool_choice"] = (choice if isinstance(choice, str) else _Named("one tool"), "auto")
    elif choice == "auto" and any(_is_strict(tool) for tool in tools):
        active["tools[].strict"] = (True, False)
    elif one_call and getattr(request, "parallel_tool_calls", None) is False:
        active["parallel_tool_calls"] = (False, True)
    form = _format_of(request)
    if form not in (None, "text"):
        active["response_format.type" if hasattr(request, "response_format") else "text.format.type"] = (
            form,
            "text",
        )
    refuse_in_diffusion(active, options)


def refuse_processors_in_diffusion(processors: Sequence[str], options: DecodingOptions) -> None:
    """Raise `OptionError` where a server runs logits processors of the user's, which a block cannot honour."""
    if processors:
        raise OptionError(
            f"field 'decoding_mode': got '{options.decoding_mode.value}', expected 'auto', 'ar' or 'self_speculation': "
            f"this server runs logits processors ({', '.join(processors)}), and a processor changes the distribution "
            "of the next token, which no block has"
        )


class _Named(str):
    """A value that is shown as it is, without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _is_strict(tool: Any) -> bool:
    """Whether a tool of a chat request, or of a responses request, is strict."""
    return bool(getattr(getattr(tool, "function", tool), "strict", None))


def _format_of(request: Any) -> str | None:
    holder = getattr(request, "response_format", None)
    if holder is None:
        holder = getattr(getattr(request, "text", None), "format", None)
    return getattr(holder, "type", None)


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
    covered = covered_positions(rope_parameters)
    if covered is not None and max_model_len > covered:
        raise ValueError(
            f"{flag.lstrip('-').replace('-', '_')}: got {max_model_len}, expected at most {covered}, which is the "
            f"checkpoint's rope_parameters.original_max_position_embeddings times its factor; use {flag}"
        )
