"""What a decoding run reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from nemotron_diffusion_plugin.rules.stop import FinishReason


@dataclass
class Generation:
    """The tokens of a request and the forwards they took; the prefill of the prompt is not counted.

    Attributes:
        token_ids: the tokens emitted, a stop token included.
        confidences: the un-tempered softmax probability of each token under the logits that chose it: those of the
            denoise step that committed it, or causal ones.
        finish_reason: "stop" after a stop token, "length" at a limit.
        draft_forwards: drafts of self-speculation.
        denoise_forwards: denoise steps of diffusion.
        verify_forwards: causal forwards: verifies, commit passes of diffusion, and every step of AR decoding.
        denoise_steps: per block of diffusion.
        accepted: per cycle of self-speculation, the drafts that the verify accepted, without the bonus and
            before the output is trimmed to a stop token or a limit.
    """

    token_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    draft_forwards: int = 0
    denoise_forwards: int = 0
    verify_forwards: int = 0
    denoise_steps: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def forwards(self) -> int:
        """All forwards after the prefill."""
        return self.draft_forwards + self.denoise_forwards + self.verify_forwards

    @property
    def tokens_per_forward(self) -> float:
        """Tokens emitted per forward after the prefill (TPF); 0 when there was none."""
        return len(self.token_ids) / self.forwards if self.forwards else 0.0

    @property
    def acceptance_length(self) -> float:
        """Mean number of tokens of a draft and verify cycle, the bonus included; 0 without a cycle."""
        return 1.0 + sum(self.accepted) / len(self.accepted) if self.accepted else 0.0


ForwardKind = Literal["prefill", "draft", "denoise", "verify"]


@dataclass(frozen=True)
class Step:
    """One forward as a viewer sees it: the block after it, and what the request has emitted so far."""

    forward: ForwardKind
    tokens: list[int]
    masked: list[bool]
    emitted: list[int]


OnStep = Callable[[Step], None]
