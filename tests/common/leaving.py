"""Clients that hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

AT_ONCE = 25
SECONDS = 300.0


async def _leave_after_first_event(http: httpx.AsyncClient, url: str, body: dict[str, object]) -> None:
    async with http.stream("POST", url, json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                return


async def leave_all(url: str, bodies: Sequence[dict[str, object]]) -> None:
    """Stream every body from `url`, a few at once, and hang up after the first event of each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(http: httpx.AsyncClient, body: dict[str, object]) -> None:
        async with gate:
            await _leave_after_first_event(http, url, body)

    async with httpx.AsyncClient(timeout=SECONDS, limits=httpx.Limits(max_connections=None)) as http:
        await asyncio.gather(*(one(http, body) for body in bodies))
