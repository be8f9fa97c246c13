"""Grammars of requests: owned by vLLM's scheduler, followed by drafts in the worker of the same process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.v1.structured_output.backend_outlines import OutlinesBackend

from nemotron_diffusion_plugin.serving.constrained_drafts import DraftWalk


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
    """The grammar of a request, for the drafts after a step.

    vLLM's scheduler owns the grammar, and has followed every token but those that the step samples.

    Grammars of Outlines are not followed: they keep no more states to go back to than a step has drafts, and sampled
    tokens come on top of those.
    """

    def __init__(self, manager: Any, request: Any) -> None:
        """`manager` is vLLM's `StructuredOutputManager`."""
        self._manager = manager
        self._request = request

    def after(self, sampled: SampledTokens, row: int) -> VllmDraftWalk:
        """Begin to walk over drafts, after what a row of the step has sampled."""
        structured = self._request.structured_output_request
        bounds = self._manager._get_constraint_bounds(self._request, ())
        thinks = bounds.constraint_start > 0
        followed = not thinks and not isinstance(self._manager.backend, OutlinesBackend)
        grammar = structured.grammar if followed else None
        return VllmDraftWalk(grammar, self._request.request_id, self._manager.backend, sampled, row)


class VllmDraftWalk(DraftWalk):
    """Begins when it is first asked, so that the draft forward is under way while the host waits for sampled tokens.

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

    def advance(self, tokens: Sequence[int]) -> int:
        """Also follows what was sampled, at the first call."""
        if not self._begun:
            self._begin()
        if self._grammar is None:
            return len(tokens)
        valid = self._grammar.validate_tokens(list(tokens))
        if valid:
            self._grammar.accept_tokens(self._request_id, valid)
        return len(valid)

    def roll_back(self, count: int) -> None:
        """To where vLLM's scheduler expects the grammar, in the end."""
        if self._grammar is not None:
            self._grammar.rollback(count)

    def allowed(self) -> np.ndarray | None:
        """See `DraftWalk.allowed`."""
        if self._grammar is None or self._grammar.is_terminated():
            return None
        mask = self._backend.allocate_token_bitmask(1)
        self._grammar.fill_bitmask(mask, 0)
        words: np.ndarray = mask[0].numpy()
        return words

    def _begin(self) -> None:
        self._begun = True
        sampled = self._sampled.of_row(self._row)
        if self._grammar is not None and self.follow(sampled) < len(sampled):
            self.rewind()  # the request has ended with a token before the last
            self._grammar = None
