"""Where SGLang's processes find what the server was started with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nemotron_diffusion_plugin.options import OptionError
from nemotron_diffusion_plugin.settings import SETTING_NAMES, ServerSettings

FLAG = "--decoding-options"
VARIABLE = "NEMOTRON_DIFFUSION_OPTIONS"
"""Holds the same JSON object as the flag, which wins; SGLang's worker processes read it."""


def parse_options(text: str) -> dict[str, Any]:
    """Read the JSON object of the flag or the variable.

    Raises `OptionError` naming what is wrong: not an object, or an unknown name. Values are checked against the model.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise OptionError(f"{FLAG}: got {text!r}, expected a JSON object: {error}") from None
    if not isinstance(raw, Mapping):
        raise OptionError(f"{FLAG}: got {text!r}, expected a JSON object of option names and values")
    unknown = [name for name in raw if name not in SETTING_NAMES]
    if unknown:
        raise OptionError(
            f"{FLAG}: unknown option '{unknown[0]}', expected one of {', '.join(SETTING_NAMES)}"
        )
    return dict(raw)


def settings_of(hf_config: Any) -> ServerSettings:
    """The settings of a server of this model; raises `OptionError` naming field, value and what is allowed."""
    return _read(hf_config.block_size, os.environ.get(VARIABLE, ""))


_served: ServerSettings | None = None


def serve(settings: ServerSettings) -> None:
    """Note that this process runs our worker, with these settings."""
    global _served
    _served = settings


def served() -> ServerSettings | None:
    """The settings of this process's worker; None where the worker is not ours."""
    return _served


@lru_cache(maxsize=8)
def _read(block_size: int, text: str) -> ServerSettings:
    """Read once, as every request is checked against them: they may name a file."""
    return ServerSettings.read(block_size, parse_options(text) if text else None)
