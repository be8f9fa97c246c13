"""The decoding options of a request, validated once into one typed object (docs/model.md, 3)."""

import difflib
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any


class DecodingMode(str, Enum):
    """How a request is decoded: one network serves all of them.

    `auto` is self-speculation whose block length the server chooses before every cycle; a block of 1 is AR.
    """

    AR = "ar"
    DIFFUSION = "diffusion"
    SELF_SPECULATION = "self_speculation"
    AUTO = "auto"

    @property
    def speculates(self) -> bool:
        """Whether blocks are drafted and verified, with the text of AR."""
        return self in (DecodingMode.SELF_SPECULATION, DecodingMode.AUTO)

    @property
    def code(self) -> int:
        """The mode as arrays hold it: its place in `MODES`."""
        return MODES.index(self)


MODES = tuple(DecodingMode)


FIXED_MODES = (DecodingMode.AR, DecodingMode.DIFFUSION, DecodingMode.SELF_SPECULATION)
"""The modes that always decode alike; `auto` chooses between two of them."""


class CommitRule(str, Enum):
    """Which masked positions a denoise step commits (docs/model.md, 3.2)."""

    THRESHOLD = "threshold"
    SCHEDULE = "schedule"
    THRESHOLD_BOUND = "threshold_bound"
    CUMULATIVE_ERROR = "cumulative_error"
    FIXED = "fixed"


MAX_STOP_IDS = 128
"""The most stop tokens of a request: the width of the workers' tables."""


class OptionError(ValueError):
    """A decoding option is unknown, has the wrong type or is out of range."""


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What a request may choose; every value is valid once `parse` or `for_model` returned it.

    Attributes:
        decoding_mode: autoregressive, block diffusion, self-speculation, or auto.
        threshold: confidence in (0, 1] from which a masked position is committed; diffusion only.
        denoising_steps: the most denoise steps a block may take; None for no bound but one token a step.
        block_size: tokens of a block with its seed, 1 to the model's block size; 1 decodes token by token. In auto the
            longest block that may be chosen.
        draft_lora: whether self-speculation and auto draft with the drafter LoRA, where the checkpoint has one.
        commit_rule: the rule of a denoise step.
        tokens_per_step: how many tokens the rule `fixed` commits in a denoise step.
        return_counts: whether the response says what the request took: forwards, acceptance, denoise steps.
    """

    decoding_mode: DecodingMode = DecodingMode.AUTO
    threshold: float = 0.9
    denoising_steps: int | None = None
    block_size: int = 32
    draft_lora: bool = True
    commit_rule: CommitRule = CommitRule.THRESHOLD
    tokens_per_step: int = 1
    return_counts: bool = False

    @property
    def longest_block(self) -> int:
        """The longest block that is drafted: 1, which is no draft, in AR mode."""
        return 1 if self.decoding_mode is DecodingMode.AR else self.block_size

    @staticmethod
    def for_model(block_size: int, server_defaults: Mapping[str, object] | None = None) -> "DecodingOptions":
        """Return a server's defaults: the model's block size, overridden by what the server was started with.

        Raises `OptionError` naming field, value and what is allowed.
        """
        return DecodingOptions.parse(server_defaults, DecodingOptions(block_size=block_size), block_size)

    @staticmethod
    def parse(
        raw: Mapping[str, object] | None, defaults: "DecodingOptions", max_block_size: int
    ) -> "DecodingOptions":
        """Return `defaults` with the options of `raw` applied; `raw` may come straight from JSON.

        Raises `OptionError` naming field, value and what is allowed; an unknown name lists the known ones.
        """
        if raw is None:
            return defaults
        if not isinstance(raw, Mapping):
            raise OptionError(f"decoding options: got {raw!r}, expected an object of option names and values")
        for name in raw:
            if name not in OPTION_NAMES:
                raise unknown_option(name)
        chosen = {name: _READERS[name](name, value, max_block_size) for name, value in raw.items()}
        options = replace(defaults, **chosen)
        if "tokens_per_step" in chosen and options.commit_rule is not CommitRule.FIXED:
            raise OptionError(
                f"field 'tokens_per_step': got {options.tokens_per_step} with commit_rule "
                f"'{options.commit_rule.value}', expected commit_rule 'fixed', the only rule that uses it"
            )
        return options


_SHOWN_BITS = 1024
OPTION_NAMES: tuple[str, ...] = tuple(field.name for field in fields(DecodingOptions))


_ALIKE = 0.8


def unknown_option(name: object) -> OptionError:
    """Return the error to raise for a name that is no option; it lists the options and hints at a similar one."""
    allowed = ", ".join(OPTION_NAMES)
    close = difflib.get_close_matches(str(name)[:80], OPTION_NAMES, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return OptionError(f"field {reprlib.repr(name)}: unknown option{hint}, expected one of {allowed}")


def is_misspelt(name: object) -> bool:
    """Whether a name is so much like an option's that it is one with a slip, not a name of somebody else's."""
    return bool(difflib.get_close_matches(str(name)[:80], OPTION_NAMES, n=1, cutoff=_ALIKE))


def _refuse(name: str, value: object, expected: str) -> OptionError:
    huge = isinstance(value, int) and value.bit_length() > _SHOWN_BITS
    shown = "an integer too long to show" if huge else reprlib.repr(value)
    return OptionError(f"field '{name}': got {shown}, expected {expected}")


def _enum(kind: type[Enum]) -> Callable[[str, object, int], Enum]:
    def read(name: str, value: object, max_block_size: int) -> Enum:
        if isinstance(value, str):
            for member in kind:
                if member.value == value:
                    return member
        raise _refuse(name, value, f"one of {', '.join(repr(member.value) for member in kind)}")

    return read


def _threshold(name: str, value: object, max_block_size: int) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 < value <= 1.0:  # type: ignore[operator]
        raise _refuse(name, value, "a number in (0, 1]")
    return float(value)  # type: ignore[arg-type]


def _count(name: str, value: object, max_block_size: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refuse(name, value, "an integer >= 1")
    return value


def _steps(name: str, value: object, max_block_size: int) -> int | None:
    return None if value is None else _count(name, value, max_block_size)


def _block_size(name: str, value: object, max_block_size: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= max_block_size:
        raise _refuse(name, value, f"an integer in 1 to {max_block_size}, the model's block size")
    return value


def _flag(name: str, value: object, max_block_size: int) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return value


_READERS: dict[str, Callable[[str, object, int], Any]] = {
    "decoding_mode": _enum(DecodingMode),
    "threshold": _threshold,
    "denoising_steps": _steps,
    "block_size": _block_size,
    "draft_lora": _flag,
    "commit_rule": _enum(CommitRule),
    "tokens_per_step": _count,
    "return_counts": _flag,
}
FLAGS: tuple[str, ...] = tuple(name for name, read in _READERS.items() if read is _flag)
"""The options that are true or false."""
