"""What the clients of both engines share: they keep what the tests compare, token ids, reasons and counters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from tests.common.cases import Case
from tests.served.endpoint import LIMITS
from tests.served.metrics import Metrics

SECONDS = 300.0


@dataclass
class Answer:
    """One answer to a case.

    Attributes:
        logprobs: the log-probability of each token, where they were asked for.
        top_logprobs: those of the likeliest tokens at each place, the likeliest first.
        raw: what the engine has said.
    """

    token_ids: list[int]
    finish_reason: str | None
    text: str
    logprobs: list[float]
    top_logprobs: list[list[float]]
    raw: dict[str, Any] = field(repr=False, default_factory=dict)


class Client(ABC):
    """Talks to one server in the fields of vLLM's completions; may be used from several threads."""

    path: str
    metrics_path: str

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.http = httpx.Client(base_url=url, timeout=SECONDS, limits=LIMITS)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS, max_retries=0)

    @abstractmethod
    def body(self, case: Case, **fields: Any) -> dict[str, Any]:
        """The JSON body of a case."""

    @abstractmethod
    def read(self, reply: Any) -> list[Answer]:
        """The answers in a decoded reply."""

    @abstractmethod
    def stream(self, case: Case, **fields: Any) -> Iterator[Any]:
        """The events of a streamed completion, as the OpenAI client yields them."""

    @abstractmethod
    def last_event(self, case: Case) -> dict[str, Any]:
        """The last event of a stream, decoded."""

    @abstractmethod
    def counts(self, reply: Any) -> dict[str, Any] | None:
        """What a reply, or the last event of a stream, says a request with `return_counts` took."""

    @abstractmethod
    def settled(self, condition: Callable[[Metrics], bool] = lambda metrics: True) -> Metrics:
        """The counters once the engine has done with the step under way and `condition` holds, 30 s at most."""

    def post(self, body: dict[str, Any], path: str = "") -> httpx.Response:
        return self.http.post(path or self.path, json=body)

    def choices(self, case: Case, **fields: Any) -> list[Answer]:
        """All answers to a request; fails the test on anything but 200."""
        reply = self.post(self.body(case, **fields))
        assert reply.status_code == 200, reply.text
        return self.read(reply.json())

    def complete(self, case: Case, **fields: Any) -> Answer:
        [answer] = self.choices(case, **fields)
        return answer

    def complete_all(self, cases: Sequence[Case], **fields: Any) -> list[Answer]:
        """All cases at once, each in a connection of its own."""
        with ThreadPoolExecutor(len(cases)) as pool:
            return list(pool.map(lambda case: self.complete(case, **fields), cases))

    @contextmanager
    def in_background(self, cases: Sequence[Case]) -> Iterator[list[Answer]]:
        """The cases run while the block does; leaving it waits for them and fills the list of answers."""
        answers: list[Answer] = []
        with ThreadPoolExecutor(len(cases)) as pool:
            pending = [pool.submit(self.complete, case) for case in cases]
            yield answers
            answers += [one.result() for one in pending]

    def metrics(self) -> Metrics:
        return Metrics(self.http.get(self.metrics_path).text)
