"""A small client of SGLang's own endpoint that keeps what the tests compare: token ids, reasons, counters."""

from __future__ import annotations

import json
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
    """What /generate returns for one prompt."""

    token_ids: list[int]
    finish_reason: str | None
    text: str
    meta: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt came from the radix cache."""
        return int(self.meta["cached_tokens"])

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of each token, which are checked to be those returned."""
        values = self.meta["output_token_logprobs"]
        assert [token for _, token, _ in values] == self.token_ids
        return [value for value, _, _ in values]

    @staticmethod
    def read(reply: dict[str, Any]) -> Answer:
        meta = reply["meta_info"]
        reason = meta["finish_reason"]
        return Answer(reply["output_ids"], reason and reason["type"], reply["text"], meta)


class Client:
    """Talks to one server; may be used from several threads."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.http = httpx.Client(base_url=url, timeout=SECONDS, limits=LIMITS)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS, max_retries=0)

    def body(self, case: Case, sampling: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The JSON body of a case; `sampling` is added to its sampling parameters, `more` to the body."""
        assert not (case.ignore_eos and case.stop_token_ids), "SGLang ignores all stop tokens with EOS"
        parameters: dict[str, Any] = {
            "temperature": 0,
            "max_new_tokens": case.max_tokens,
            "ignore_eos": case.ignore_eos,
            "min_new_tokens": case.min_tokens,
            "stop_token_ids": list(case.stop_token_ids),
        }
        if case.options:
            parameters["custom_params"] = case.options
        return {"input_ids": case.prompt, "sampling_params": {**parameters, **(sampling or {})}, **more}

    def post(self, body: dict[str, Any], path: str = "/generate") -> httpx.Response:
        return self.http.post(path, json=body)

    def choices(self, case: Case, sampling: dict[str, Any] | None = None, **more: Any) -> list[Answer]:
        """All answers to a request; fails the test on anything but 200."""
        reply = self.post(self.body(case, sampling, **more))
        assert reply.status_code == 200, reply.text
        content = reply.json()
        return [Answer.read(one) for one in (content if isinstance(content, list) else [content])]

    def complete(self, case: Case, sampling: dict[str, Any] | None = None, **more: Any) -> Answer:
        [answer] = self.choices(case, sampling, **more)
        return answer

    def complete_all(
        self, cases: Sequence[Case], sampling: dict[str, Any] | None = None, **more: Any
    ) -> list[Answer]:
        """All cases at once, each in a connection of its own."""
        with ThreadPoolExecutor(len(cases)) as pool:
            return list(pool.map(lambda case: self.complete(case, sampling, **more), cases))

    @contextmanager
    def in_background(self, cases: Sequence[Case]) -> Iterator[list[Answer]]:
        """The cases run while the block does; leaving it waits for them and fills the list of answers."""
        answers: list[Answer] = []
        with ThreadPoolExecutor(len(cases)) as pool:
            pending = [pool.submit(self.complete, case) for case in cases]
            yield answers
            answers += [one.result() for one in pending]

    def events(
        self, case: Case, sampling: dict[str, Any] | None = None, **more: Any
    ) -> Iterator[dict[str, Any]]:
        """The events of a streamed request, decoded."""
        body = self.body(case, sampling, **more, stream=True)
        with self.http.stream("POST", "/generate", json=body) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def completions(self, case: Case, **more: Any) -> dict[str, Any]:
        """The arguments of a case for the OpenAI client's completions."""
        extra = {
            "ignore_eos": case.ignore_eos,
            "custom_params": case.options,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return {
            "model": self.model,
            "prompt": case.prompt,
            "max_tokens": case.max_tokens,
            "temperature": 0,
            **more,
            "extra_body": {**extra, **more.get("extra_body", {})},
        }

    def metrics(self) -> Metrics:
        return Metrics(self.http.get("/metrics/").text)

    def settled(self, condition: Callable[[Metrics], bool] = lambda metrics: True) -> Metrics:
        """The counters once the scheduler has done with the step under way and `condition` holds.

        The scheduler answers /server_info between two steps.
        """
        end = time.monotonic() + 30.0
        while True:
            for _ in range(2):
                self.http.get("/server_info").raise_for_status()
            metrics = self.metrics()
            if condition(metrics) or time.monotonic() > end:
                return metrics
            time.sleep(0.1)

    def empty_cache(self, seconds: float = 30.0) -> bool:
        """Drop the radix cache, which SGLang does once nothing runs or waits; False where that does not come."""
        end = time.monotonic() + seconds
        while self.http.post("/flush_cache").status_code != 200:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True
