"""What one request took, for a response that is asked to say so (option `return_counts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.counters import KINDS

RESPONSE_KEY = "nemotron_diffusion"
"""Under this name a response holds the counts."""
_ATTRIBUTE = "_nemotron_diffusion_counts"


@dataclass
class RequestCounts:
    """Counts of one request, prompt to end; a preempted request keeps counting.

    Attributes:
        mode: how the request is decoded.
        tokens: tokens returned, the first one included.
        forwards: forwards the request took part in, by kind.
        accepted_drafts: for each cycle that verified drafts, how many were accepted; diffusion verifies none.
        denoise_steps: for each diffusion block, its denoise forwards.
    """

    mode: DecodingMode
    tokens: int = 0
    forwards: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    accepted_drafts: list[int] = field(default_factory=list)
    denoise_steps: list[int] = field(default_factory=list)

    def forward(self, kind: str, amount: int = 1) -> None:
        """Count forwards of one of `KINDS`."""
        self.forwards[kind] += amount

    def block_denoised(self, steps: int) -> None:
        """Count a diffusion block and its denoise forwards."""
        self.denoise_steps.append(steps)
        self.forward("denoise", steps)

    def summary(self) -> dict[str, Any]:
        """The counts as JSON values; tokens per forward leaves prefill out, acceptance length counts the bonus."""
        forwards = sum(self.forwards.values()) - self.forwards["prefill"]
        cycles = len(self.accepted_drafts)
        return {
            "decoding_mode": self.mode.value,
            "tokens": self.tokens,
            "forwards": dict(self.forwards),
            "tokens_per_forward": self.tokens / forwards if forwards else None,
            "acceptance_length": 1 + sum(self.accepted_drafts) / cycles if cycles else None,
            "accepted_drafts": list(self.accepted_drafts),
            "denoise_steps": list(self.denoise_steps),
        }


def span_attributes(summary: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The numbers of a `RequestCounts.summary` as attributes of an OpenTelemetry span; lists are left out."""
    plain = {name: summary[name] for name in ("decoding_mode", "tokens_per_forward", "acceptance_length")}
    forwards = {f"forwards.{kind}": count for kind, count in summary["forwards"].items()}
    return {
        f"{RESPONSE_KEY}.{name}": value for name, value in {**plain, **forwards}.items() if value is not None
    }


def start_counting(request: Any, mode: DecodingMode) -> None:
    """Begin to count for an engine's request."""
    setattr(request, _ATTRIBUTE, RequestCounts(mode))


def counts_of(request: Any) -> RequestCounts | None:
    """The counts of an engine's request; None where nobody asked for them."""
    counts: RequestCounts | None = getattr(request, _ATTRIBUTE, None)
    return counts
