"""Chat requests with bounded concurrency, and what a client sees of each: text, tokens, times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemotron_diffusion_plugin.tools.bench.engines import acceptance_histogram

if TYPE_CHECKING:
    import httpx

_STREAM_OPTIONS = {"include_usage": True}


class RequestError(RuntimeError):
    """The server refused a request, or the connection was lost."""


@dataclass
class Reply:
    """One answer.

    Attributes:
        prompt_tokens, tokens: as the server counts them.
        histogram: how many verify forwards accepted 0, 1, 2 … drafts, where the engine reports it.
        latency: seconds from sending to the last event.
        first: seconds to the first text (TTFT); 0 where nothing was streamed.
        gaps: seconds between events with text (inter-token latency as the engines' own clients count it: an event may
            carry several tokens).
    """

    text: str
    prompt_tokens: int
    tokens: int
    histogram: list[int] = field(default_factory=list)
    latency: float = 0.0
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @property
    def time_per_token(self) -> float | None:
        """Seconds per token after the first one (TPOT); None for a single token."""
        return (self.latency - self.first) / (self.tokens - 1) if self.tokens > 1 and self.first else None


def run(
    url: str, bodies: Sequence[dict[str, Any]], concurrency: int, stream: bool, timeout: float
) -> tuple[list[Reply], float]:
    """Send all requests, at most `concurrency` at a time, each when one before it has ended.

    Returns the replies in the order of the requests, and the seconds until the last one. `timeout` is the seconds a
    server may stay silent.

    Raises:
        RequestError: a request was refused or lost; the others are given up.
    """
    return asyncio.run(_run(url, bodies, concurrency, stream, timeout))


async def _run(
    url: str, bodies: Sequence[dict[str, Any]], concurrency: int, stream: bool, timeout: float
) -> tuple[list[Reply], float]:
    import httpx

    waiting = list(enumerate(bodies))[::-1]
    replies: dict[int, Reply] = {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(timeout), limits=limits) as client:

        async def work() -> None:
            while waiting:
                place, body = waiting.pop()
                replies[place] = await (_streamed(client, body) if stream else _whole(client, body))

        start = time.perf_counter()
        workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(bodies)))]
        try:
            await asyncio.gather(*workers)
        except httpx.HTTPError as error:
            raise RequestError(f"a request was lost: {type(error).__name__} {error}".rstrip()) from error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        seconds = time.perf_counter() - start
    return [replies[place] for place in range(len(bodies))], seconds


async def _whole(client: httpx.AsyncClient, body: dict[str, Any]) -> Reply:
    start = time.perf_counter()
    answer = await client.post("/v1/chat/completions", json=body)
    latency = time.perf_counter() - start
    if answer.status_code != 200:
        raise RequestError(_refusal(answer.status_code, answer.text))
    content = _parsed(answer.text)
    try:
        text, usage = content["choices"][0]["message"]["content"], content["usage"]
        return Reply(
            text or "",
            int(usage["prompt_tokens"]),
            int(usage["completion_tokens"]),
            acceptance_histogram(content),
            latency,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise RequestError(f"not a chat completion: {answer.text[:300]}") from error


async def _streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> Reply:
    start = time.perf_counter()
    last = first = 0.0
    texts: list[str] = []
    gaps: list[float] = []
    usage: dict[str, Any] = {}
    sent = {**body, "stream": True, "stream_options": _STREAM_OPTIONS}
    async with client.stream("POST", "/v1/chat/completions", json=sent) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise RequestError(_refusal(answer.status_code, answer.text))
        async for line in _lines(answer):
            if not line.startswith("data:") or line.endswith("[DONE]"):
                continue
            event = _parsed(line.removeprefix("data:"))
            if "error" in event:
                raise RequestError(_refusal(answer.status_code, line))
            usage = event.get("usage") or usage
            text = "".join(
                (choice.get("delta") or {}).get("content") or "" for choice in event.get("choices", ())
            )
            if text:
                now = time.perf_counter()
                if texts:
                    gaps.append(now - last)
                else:
                    first = now - start
                last = now
                texts.append(text)
    latency = time.perf_counter() - start
    if "completion_tokens" not in usage:
        raise RequestError("a stream ended without the usage that was asked for")
    tokens = int(usage["completion_tokens"])
    return Reply("".join(texts), int(usage["prompt_tokens"]), tokens, [], latency, first, gaps)


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of an answer.

    Only a newline ends one: `aiter_lines` also splits at U+0085, U+2028 and others, which JSON texts hold unescaped.
    """
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RequestError(f"not a JSON object: {text[:300]}")
    return content


def _refusal(status: int, text: str) -> str:
    return f"the server answered {status}: {' '.join(text.split())[:500]}"
