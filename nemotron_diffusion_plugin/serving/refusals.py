"""What block diffusion cannot honour, and where no counts are to be had."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nemotron_diffusion_plugin.options import DecodingOptions, OptionError


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


def refuse_counts(options: DecodingOptions, reason: str) -> None:
    """Raise `OptionError` where a request asks for its counts and `reason` says why there are none."""
    if options.return_counts:
        raise OptionError(f"field 'return_counts': got true, expected false: {reason}")
