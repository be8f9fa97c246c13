"""The patches that every process of vLLM needs (docs/patches.md)."""

from __future__ import annotations

from pkgutil import resolve_name

from nemotron_diffusion_patches import Patch
from nemotron_diffusion_patches.vllm import (
    async_scheduling,
    lookahead_slots,
    sampling_parameters,
    speculator_factory,
)
from nemotron_diffusion_plugin.vllm import versions
from nemotron_diffusion_plugin.vllm.identity import (
    SPECULATIVE_METHOD,
    SPECULATOR_CLASS,
    is_block_speculator,
    uses_block_speculator,
)


def engine_patches() -> list[Patch]:
    """The patches that the installed version needs, in the order in which they are applied."""
    patches = [
        lookahead_slots.patch(uses_block_speculator),
        async_scheduling.patch(SPECULATIVE_METHOD),
        speculator_factory.patch(uses_block_speculator, _make_speculator),
        sampling_parameters.patch(is_block_speculator),
    ]
    return [patch for patch in patches if versions.needs(patch.about)]


def summary() -> str:
    """One line for the log at start: which patches are active."""
    active = [p.name for p in engine_patches() if p.is_applied()]
    return f"patches active: {', '.join(active)}"


def _make_speculator(*arguments: object) -> object:
    return resolve_name(SPECULATOR_CLASS)(*arguments)
