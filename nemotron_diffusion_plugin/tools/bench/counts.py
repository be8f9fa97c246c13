"""What the answers to a set of prompts took: tokens, forwards, cycles, accepted drafts, right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nemotron_diffusion_plugin.tools.bench.client import Reply
from nemotron_diffusion_plugin.tools.bench.data import Prompt
from nemotron_diffusion_plugin.tools.bench.engines import VLLM_REPORTS_ACCEPTANCE
from nemotron_diffusion_plugin.tools.bench.methods import Method, ServerKind
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters


@dataclass
class Counts:
    """Sums over requests.

    Attributes:
        right, checked: answers that are the expected text word for word, of those that can be checked.
        forwards: by kind; forwards of an Eagle3 head are not among them, which are of another, smaller network.
        cycles: verify forwards with drafts.
        accepted: drafts accepted.
        by_position: of the drafts at each position, how many were accepted; empty where the engine does not say.
    """

    requests: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    right: int = 0
    checked: int = 0
    forwards: dict[str, int] = field(default_factory=dict)
    cycles: int = 0
    accepted: int = 0
    by_position: list[int] = field(default_factory=list)

    @property
    def decode_forwards(self) -> int:
        """Forwards after the prompt's prefill."""
        return sum(count for kind, count in self.forwards.items() if kind != "prefill")

    @property
    def tokens_per_decode_forward(self) -> float:
        """Tokens per forward with the prefill not counted, as the model's papers count (TPF); 0 without forwards.

        The first token is counted though it comes with the prefill, so AR is a little above 1.
        """
        return self.tokens / self.decode_forwards if self.decode_forwards else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens per forward, the prefill counted as one; 0 without forwards."""
        total = sum(self.forwards.values())
        return self.tokens / total if total else 0.0

    @property
    def acceptance_length(self) -> float:
        """Tokens of a draft and verify cycle, bonus and those past an answer's end included (AL); 0 without cycles."""
        return 1 + self.accepted / self.cycles if self.cycles else 0.0

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None where none can be checked."""
        return self.right / self.checked if self.checked else None

    @property
    def acceptance_by_position(self) -> list[float]:
        """The share of cycles in which the first draft, the first two, … were accepted."""
        return [count / self.cycles for count in self.by_position] if self.cycles else []

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Counts:
        return cls(**{item.name: content[item.name] for item in fields(cls)})


def total(parts: Sequence[Counts]) -> Counts:
    """Return the sum of several counts."""
    result = Counts()
    for part in parts:
        for name in ("requests", "prompt_tokens", "tokens", "right", "checked", "cycles", "accepted"):
            setattr(result, name, getattr(result, name) + getattr(part, name))
        for kind, count in part.forwards.items():
            result.forwards[kind] = result.forwards.get(kind, 0) + count
        result.by_position = _added(result.by_position, part.by_position)
    return result


def count(
    method: Method, prompts: Sequence[Prompt], replies: Sequence[Reply], counters: ModeCounters | None
) -> Counts:
    """Return what these replies took.

    `counters` are what the server counted meanwhile for the method's mode; without them (another speculator) every
    verify forward is a cycle, as both engines verify drafts in each of their steps.

    Raises:
        ValueError: answers of another speculator do not say what it accepted.
    """
    result = Counts(
        requests=len(replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        tokens=sum(reply.tokens for reply in replies),
        right=sum(
            prompt.is_right(reply.text) is True for prompt, reply in zip(prompts, replies, strict=True)
        ),
        checked=sum(prompt.answer is not None for prompt in prompts),
    )
    histogram: list[int] = []
    for reply in replies:
        histogram = _added(histogram, reply.histogram)
    if method.drafts:
        result.by_position = [sum(histogram[drafts:]) for drafts in range(1, len(histogram))]
    if method.kind is ServerKind.MODES:
        assert counters is not None
        result.forwards = {
            "prefill": len(replies),
            "draft": counters.draft_forwards,
            "denoise": counters.denoise_forwards,
            "verify": counters.verify_forwards,
        }
        result.cycles, result.accepted = counters.cycles, counters.accepted_drafts
    else:
        if not histogram and any(reply.tokens > 1 for reply in replies):
            raise ValueError(
                f"{method.title}: no answer says how many drafts were accepted; expected a server that speculates so, "
                f"on vLLM with {' '.join(VLLM_REPORTS_ACCEPTANCE)}; --per-category 0 leaves the counts out"
            )
        result.cycles = sum(histogram)
        result.accepted = sum(drafts * times for drafts, times in enumerate(histogram))
        result.forwards = {"prefill": len(replies), "verify": result.cycles}
    return result


def _added(first: Sequence[int], second: Sequence[int]) -> list[int]:
    length = max(len(first), len(second))
    padded = [[*part, *[0] * (length - len(part))] for part in (first, second)]
    return [a + b for a, b in zip(*padded, strict=True)]
