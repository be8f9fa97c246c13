"""Server-wide settings, and the options of one request over them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.options import OPTION_NAMES, DecodingOptions, OptionError

DENOISE_FORWARDS = "denoise_forwards_per_step"
KERNELS_NAME = "kernels"
TORCH = "torch"
TRITON = "triton"
KERNELS = (TORCH, TRITON)
SYNTHETIC_ACCEPTANCE = "synthetic_acceptance_length"
AUTO_BLOCK_SIZES = "auto_block_sizes"
FORWARD_COSTS = "forward_costs"
MEASURED = "measured"
ARITHMETIC = "arithmetic"
TABLE = "table"
SETTING_NAMES = (
    *OPTION_NAMES,
    DENOISE_FORWARDS,
    KERNELS_NAME,
    SYNTHETIC_ACCEPTANCE,
    AUTO_BLOCK_SIZES,
    FORWARD_COSTS,
)
MOST_AUTO_BLOCKS = 8
_DEFAULT_DENOISE_FORWARDS = 3


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server was started with.

    Attributes:
        block_size: the model's block length B, the largest a request may ask for.
        defaults: the options of a request that names none.
        denoise_forwards: the most bidirectional forwards between two engine steps while other requests decode.
        kernels: what computes picks, commits, acceptance and the low-rank branch, one of `KERNELS`.
        synthetic_acceptance: tokens that a cycle of self-speculation is made to emit on average, whatever was drafted;
            for measuring the time of a cycle without weights.
        auto_blocks: the block lengths that auto chooses from beside 1, increasing; `MOST_AUTO_BLOCKS` at most.
        cost_source: where auto knows from what forwards cost: `MEASURED` at start, `ARITHMETIC` of the GPU's data
            sheet, or `TABLE`.
        forward_costs: the table; None without one.
    """

    block_size: int
    defaults: DecodingOptions
    denoise_forwards: int = _DEFAULT_DENOISE_FORWARDS
    kernels: str = TORCH
    synthetic_acceptance: float | None = None
    auto_blocks: tuple[int, ...] = ()
    cost_source: str = MEASURED
    forward_costs: ForwardCosts | None = None

    @classmethod
    def read(cls, block_size: int, raw: Mapping[str, object] | None) -> ServerSettings:
        """Read the settings named in `SETTING_NAMES`; other names belong to others and are left.

        Raises `OptionError` naming field, value and what is allowed, also for a table of costs that cannot be read.
        """
        raw = raw or {}
        defaults = DecodingOptions.for_model(
            block_size, {name: raw[name] for name in OPTION_NAMES if name in raw}
        )
        forwards = raw.get(DENOISE_FORWARDS, _DEFAULT_DENOISE_FORWARDS)
        if isinstance(forwards, bool) or not isinstance(forwards, int) or forwards < 1:
            raise OptionError(f"field '{DENOISE_FORWARDS}': got {forwards!r}, expected an integer >= 1")
        kernels = raw.get(KERNELS_NAME, TORCH)
        if not isinstance(kernels, str) or kernels not in KERNELS:
            raise OptionError(
                f"field '{KERNELS_NAME}': got {kernels!r}, expected one of {', '.join(KERNELS)}"
            )
        synthetic = _synthetic_acceptance(raw, block_size)
        blocks = _auto_blocks(block_size, raw.get(AUTO_BLOCK_SIZES))
        source, table = _forward_costs(raw.get(FORWARD_COSTS))
        return cls(block_size, defaults, forwards, kernels, synthetic, blocks, source, table)

    def check_load_format(self, load_format: str) -> None:
        """Raise `OptionError` where acceptance is made up though the server has weights: its text would be wrong."""
        if self.synthetic_acceptance is not None and load_format != "dummy":
            raise OptionError(
                f"field '{SYNTHETIC_ACCEPTANCE}': got {self.synthetic_acceptance:g} with load format '{load_format}', "
                "expected --load-format dummy: tokens would be accepted that the model did not choose"
            )

    def options(self, raw: Mapping[str, object] | None) -> DecodingOptions:
        """Return the options of a request: what it names over the server's defaults.

        Raises `OptionError`, also for a name that is not an option.
        """
        return DecodingOptions.parse(raw, self.defaults, self.block_size)


def _synthetic_acceptance(raw: Mapping[str, object], block_size: int) -> float | None:
    length = raw.get(SYNTHETIC_ACCEPTANCE)
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length <= block_size:
        raise OptionError(
            f"field '{SYNTHETIC_ACCEPTANCE}': got {length!r}, expected a number from 1 to {block_size}, the model's "
            "block size"
        )
    return float(length)


def _forward_costs(value: object) -> tuple[str, ForwardCosts | None]:
    if value is None or value == MEASURED:
        return MEASURED, None
    return (ARITHMETIC, None) if value == ARITHMETIC else (TABLE, ForwardCosts.read(value))


def default_auto_blocks(block_size: int) -> tuple[int, ...]:
    """What auto chooses from where a server is not told: the model's block, its half and its quarter."""
    return tuple(sorted({max(2, block_size // share) for share in (4, 2, 1)})) if block_size > 1 else ()


def _auto_blocks(block_size: int, value: Any) -> tuple[int, ...]:
    if value is None:
        return default_auto_blocks(block_size)
    good = isinstance(value, list | tuple) and 0 < len(value) <= MOST_AUTO_BLOCKS
    if not good or any(type(length) is not int or not 2 <= length <= block_size for length in value):
        raise OptionError(
            f"field '{AUTO_BLOCK_SIZES}': got {reprlib.repr(value)}, expected a list of 1 to {MOST_AUTO_BLOCKS} "
            f"integers in 2 to {block_size}, the model's block size"
        )
    return tuple(sorted(set(value)))
