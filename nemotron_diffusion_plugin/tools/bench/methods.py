"""The ways to decode that are compared: which server each needs, and what each request says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError


class ServerKind(str, Enum):
    """How a server is started: methods of one kind share a server, as the mode is chosen per request."""

    MODES = "modes"
    EAGLE3 = "eagle3"
    NGRAM = "ngram"


@dataclass(frozen=True)
class Method:
    """A way to decode.

    Attributes:
        name: what the command line calls it.
        title: what tables and plots call it.
        options: the decoding options of its requests.
    """

    name: str
    title: str
    kind: ServerKind
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """The decoding mode its requests are counted under; empty for another speculator."""
        return str(self.options.get("decoding_mode", ""))

    @property
    def drafts(self) -> bool:
        """Whether a verify forward decides about drafts, so that there is an acceptance length."""
        return self.kind is not ServerKind.MODES or DecodingMode(self.mode).speculates

    @property
    def is_lossless(self) -> bool:
        """Whether greedy answers are those of AR."""
        return self.mode != DecodingMode.DIFFUSION.value


_FIXED = (
    Method("ar", "AR", ServerKind.MODES, {"decoding_mode": "ar"}),
    Method("eagle3", "Eagle3", ServerKind.EAGLE3),
    Method("ngram", "n-gram", ServerKind.NGRAM),
    Method("self_speculation", "self-speculation", ServerKind.MODES, {"decoding_mode": "self_speculation"}),
    Method(
        "self_speculation_without_lora",
        "self-speculation, no LoRA",
        ServerKind.MODES,
        {"decoding_mode": "self_speculation", "draft_lora": False},
    ),
    Method("auto", "auto", ServerKind.MODES, {"decoding_mode": "auto"}),
)
_DIFFUSION = re.compile(r"diffusion@(\S+)")
METHOD_NAMES = (*(method.name for method in _FIXED), "diffusion@THRESHOLD")
DEFAULT_METHODS = "ar,ngram,self_speculation,self_speculation_without_lora,auto,diffusion@0.9"
_MOST_BLOCK = 32


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises `ValueError` naming the known ones, and for a threshold out of range.
    """
    for method in _FIXED:
        if method.name == name:
            return method
    diffusion = _DIFFUSION.fullmatch(name)
    if diffusion is None:
        raise ValueError(f"--methods: unknown method '{name}', expected one of {', '.join(METHOD_NAMES)}")
    try:
        threshold = float(diffusion[1])
        DecodingOptions.parse({"threshold": threshold}, DecodingOptions(), _MOST_BLOCK)
    except (ValueError, OptionError):
        raise ValueError(
            f"--methods: '{name}': got the threshold '{diffusion[1]}', expected a number in (0, 1]"
        ) from None
    options = {"decoding_mode": "diffusion", "threshold": threshold}
    return Method(name, f"diffusion {threshold:g}", ServerKind.MODES, options)


def find_methods(names: Sequence[str]) -> list[Method]:
    """Return the different methods named, in that order; raises like `find_method`, and where none is named."""
    found = {name.strip(): find_method(name.strip()) for name in names if name.strip()}
    if not found:
        raise ValueError(f"--methods: none given, expected some of {', '.join(METHOD_NAMES)}")
    return list(found.values())
