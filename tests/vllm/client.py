"""A small client of the completions API that keeps what the tests compare: token ids, reasons, counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from tests.common.cases import Case
from tests.common.endpoint import LIMITS
from tests.common.metrics import Metrics

SECONDS = 300.0


@dataclass
class Answer:
    """One choice of a completion."""

    token_ids: list[int]
    finish_reason: str | None
    text: str
    choice: dict[str, Any] = field(repr=False, default_factory=dict)


class Client:
    """Talks to one server; may be used from several threads."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.http = httpx.Client(base_url=url, timeout=SECONDS, limits=LIMITS)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS, max_retries=0)

    def body(self, case: Case, **more: Any) -> dict[str, Any]:
        """The JSON body of a case."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": case.prompt,
            "max_tokens": case.max_tokens,
            "temperature": 0,
            "return_token_ids": True,
            "ignore_eos": case.ignore_eos,
            "min_tokens": case.min_tokens,
            "stop_token_ids": list(case.stop_token_ids),
        }
        if case.options:
            body["vllm_xargs"] = case.options
        return {**body, **more}

    def post(self, body: dict[str, Any], path: str = "/v1/completions") -> httpx.Response:
        return self.http.post(path, json=body)

    def choices(self, case: Case, **more: Any) -> list[Answer]:
        """All choices of a completion; fails the test on anything but 200."""
        reply = self.post(self.body(case, **more))
        assert reply.status_code == 200, reply.text
        return [
            Answer(choice["token_ids"], choice["finish_reason"], choice["text"], choice)
            for choice in reply.json()["choices"]
        ]

    def complete(self, case: Case, **more: Any) -> Answer:
        [answer] = self.choices(case, **more)
        return answer

    def complete_all(self, cases: Sequence[Case], **fields: Any) -> list[Answer]:
        """All cases at once, each in a connection of its own."""
        with ThreadPoolExecutor(len(cases)) as pool:
            return list(pool.map(lambda case: self.complete(case, **fields), cases))

    @contextmanager
    def in_background(self, cases: Sequence[Case]) -> Iterator[None]:
        """The cases run while the block does; leaving it waits for them."""
        with ThreadPoolExecutor(len(cases)) as pool:
            pending = [pool.submit(self.complete, case) for case in cases]
            yield
            for one in pending:
                one.result()

    def stream(self, case: Case, **more: Any) -> Iterator[Any]:
        """The events of a streamed completion, as the OpenAI client yields them."""
        body = self.body(case, **more)
        names = ("model", "prompt", "max_tokens", "temperature")
        standard = {name: body.pop(name) for name in names}
        yield from self.openai.completions.create(**standard, extra_body=body, stream=True)

    def metrics(self) -> Metrics:
        return Metrics(self.http.get("/metrics").text)

    def settled(self, condition: Callable[[Metrics], bool] = lambda metrics: True) -> Metrics:
        """The counters once nothing runs and `condition` holds; the server updates its own after it answers."""
        end = time.monotonic() + 30.0
        while True:
            metrics = self.metrics()
            busy = metrics.total("vllm:num_requests_running") + metrics.total("vllm:num_requests_waiting")
            if (not busy and condition(metrics)) or time.monotonic() > end:
                return metrics
            time.sleep(0.1)
