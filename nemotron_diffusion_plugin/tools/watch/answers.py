"""One answer in one mode as a stream of events: which tokens came together, and what they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters, read_counters, read_settled_counters
from nemotron_diffusion_plugin.tools.client.served_model import ServedModel

Event = dict[str, Any]
"""One of three kinds, told apart by `kind`.

`tokens`: `tokens`, the texts that arrived together, and `seconds` since the question was sent.
`end`: `tokens` (their number), `finish_reason`, `seconds`, and, where the server shows counters, `forwards`,
`tokens_per_forward` and, in self-speculation, `acceptance_length`.
`error`: `message`.
"""


def ask(served: ServedModel, mode: DecodingMode, question: str, max_tokens: int) -> Iterator[Event]:
    """Ask greedily in one mode; an engine step's tokens arrive as one event, as long as the client keeps up.

    The counts of the last event are exact while nobody else asks in the same mode. Errors of the server become an
    event too, because the answer has begun by then.
    """
    from httpx import HTTPError  # a dependency of the OpenAI client, which lets some of its errors through
    from openai import OpenAIError

    try:
        yield from _answer(served, mode, question, max_tokens)
    except (OpenAIError, HTTPError, OSError) as error:
        yield {"kind": "error", "message": str(error) or type(error).__name__}


def _answer(served: ServedModel, mode: DecodingMode, question: str, max_tokens: int) -> Iterator[Event]:
    before = _counters(served, mode)
    start = time.perf_counter()
    count, reason = 0, None
    stream = served.client.chat.completions.create(
        model=served.name,
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        logprobs=True,
        extra_body={served.request_field: {"decoding_mode": mode.value}},
    )
    with stream:
        for chunk in stream:
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            reason = choice.finish_reason or reason
            tokens = [entry.token for entry in (choice.logprobs.content or [])] if choice.logprobs else []
            if tokens:
                count += len(tokens)
                yield {"kind": "tokens", "tokens": tokens, "seconds": time.perf_counter() - start}
    seconds = time.perf_counter() - start
    if reason is None:
        raise ConnectionError("the server closed the stream before the answer ended")
    end: Event = {"kind": "end", "tokens": count, "finish_reason": reason, "seconds": seconds}
    if before is not None:
        counted = read_settled_counters(served.url, mode.value).since(before)
        end["forwards"] = counted.forwards
        end["tokens_per_forward"] = counted.tokens_per_forward
        if mode is DecodingMode.SELF_SPECULATION:
            end["acceptance_length"] = counted.acceptance_length
    yield end


def _counters(served: ServedModel, mode: DecodingMode) -> ModeCounters | None:
    """The counters of a mode; None where the server has no such page or does not count modes."""
    try:
        return read_counters(served.url, mode.value)
    except (ValueError, OSError):
        return None
