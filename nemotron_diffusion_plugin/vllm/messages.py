"""What the scheduler tells the worker about the drafts behind a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from vllm.v1.structured_output.backend_outlines import OutlinesBackend


class SampledTokens:
    """The tokens that each row of a step has sampled, copied to the host when the first row is asked for."""

    def __init__(self, tokens: torch.Tensor, counts: torch.Tensor) -> None:
        """`tokens` int `[R, W]`, of which the first `counts` int `[R]` are real."""
        self._tokens, self._counts = tokens, counts
        self._on_host: tuple[list[list[int]], list[int]] | None = None

    def of_row(self, row: int) -> list[int]:
        """The tokens of a row; the first call waits for the device."""
        if self._on_host is None:
            self._on_host = self._tokens.tolist(), self._counts.tolist()
        tokens, counts = self._on_host
        return tokens[row][: counts[row]]


class RequestGrammar:
    """The grammar of a request, for the drafts behind a step.

    vLLM's scheduler owns the grammar, and has taken in every token but those that the step samples.

    Grammars of Outlines are not followed: they keep no more states to go back to than a step has drafts, and sampled
    tokens come on top of those.
    """

    def __init__(self, manager: Any, request: Any) -> None:
        """`manager` is vLLM's `StructuredOutputManager`."""
        self._manager = manager
        self._request = request

    def behind(self, sampled: SampledTokens, row: int) -> DraftWalk:
        """Begin to walk over drafts, behind what a row of the step has sampled."""
        structured = self._request.structured_output_request
        bounds = self._manager._get_constraint_bounds(self._request, ())
        thinks = bounds.constraint_start > 0
        followed = not thinks and not isinstance(self._manager.backend, OutlinesBackend)
        grammar = structured.grammar if followed else None
        return DraftWalk(grammar, self._request.request_id, self._manager.backend, sampled, row)


class DraftWalk:
    """A grammar on its way over drafts; a `decoding.constrain.DraftGrammar`.

    It begins when it is first asked, so that the draft forward is under way while the host waits for sampled tokens.
    Without a grammar to follow (a thought is still open) every token may come.
    """

    def __init__(
        self, grammar: Any | None, request_id: str, backend: Any, sampled: SampledTokens, row: int
    ) -> None:
        self._grammar = grammar
        self._request_id = request_id
        self._backend = backend
        self._sampled, self._row = sampled, row
        self._begun = False
        self._advanced = 0

    def follow(self, tokens: Sequence[int]) -> int:
        """Go on behind the leading tokens that may come, and return how many those are."""
        if not self._begun:
            self._begin()
        if self._grammar is None:
            return len(tokens)
        return self._advance(list(tokens))

    def allowed(self) -> np.ndarray | None:
        """What may come next, int32 `[ceil(V / 32)]`; None behind the end."""
        if self._grammar is None or self._grammar.is_terminated():
            return None
        mask = self._backend.allocate_token_bitmask(1)
        self._grammar.fill_bitmask(mask, 0)
        words: np.ndarray = mask[0].numpy()
        return words

    def rewind(self) -> None:
        """Go back to where vLLM's scheduler expects the grammar."""
        if self._grammar is not None and self._advanced:
            self._grammar.rollback(self._advanced)
            self._advanced = 0

    def _begin(self) -> None:
        self._begun = True
        sampled = self._sampled.of_row(self._row)
        if self._grammar is not None and self._advance(sampled) < len(sampled):
            self.rewind()  # the request has ended with a token before the last
            self._grammar = None

    def _advance(self, tokens: list[int]) -> int:
        assert self._grammar is not None
        valid = self._grammar.validate_tokens(tokens)
        if valid:
            self._grammar.accept_tokens(self._request_id, valid)
            self._advanced += len(valid)
        return len(valid)


@dataclass
class DraftPlan:
    """What a step's `SchedulerOutput` carries for the speculator.

    Attributes:
        lengths: the block length, by request id, of each request in auto that drafts behind the step.
        grammars: the grammars, by request id, that drafts are to keep to. They do not leave the scheduler's process: a
            worker in another one (tensor parallelism) gets none and drafts freely.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    grammars: dict[str, RequestGrammar] = field(default_factory=dict)

    def walks(
        self,
        rows: np.ndarray,
        slots: np.ndarray,
        request_ids: Sequence[str],
        output: Any | None,
        num_sampled: torch.Tensor,
    ) -> dict[int, DraftWalk]:
        """The grammars of the batch rows `rows` (host) that draft, by request slot.

        They stand behind what the step has sampled: its sampler's `output`, `num_sampled` int `[R]` tokens of each row.
        """
        constrained = [row for row in rows.tolist() if request_ids[row] in self.grammars]
        if not constrained or output is None:
            return {}
        sampled = SampledTokens(output.sampled_token_ids, num_sampled)
        return {int(slots[row]): self.grammars[request_ids[row]].behind(sampled, row) for row in constrained}

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "grammars": {}}
