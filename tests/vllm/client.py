"""A small client of vLLM's completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.common.cases import Case
from tests.served import client
from tests.served.client import Answer
from tests.served.metrics import Metrics


class Client(client.Client):
    """Talks to one server; may be used from several threads."""

    path = "/v1/completions"
    metrics_path = "/metrics"

    def body(self, case: Case, **fields: Any) -> dict[str, Any]:
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
        if "logprobs" in fields:
            body["return_tokens_as_token_ids"] = True  # two tokens may have one text
        return {**body, **fields}

    def read(self, reply: Any) -> list[Answer]:
        return [_answer(choice) for choice in reply["choices"]]

    def stream(self, case: Case, **fields: Any) -> Iterator[Any]:
        body = self.body(case, **fields)
        names = ("model", "prompt", "max_tokens", "temperature")
        standard = {name: body.pop(name) for name in names}
        yield from self.openai.completions.create(**standard, extra_body=body, stream=True)

    def last_event(self, case: Case) -> dict[str, Any]:
        *_, last = self.stream(case, stream_options={"include_usage": True})
        assert last.usage
        event: dict[str, Any] = last.model_dump()
        return event

    def counts(self, reply: Any) -> dict[str, Any] | None:
        found: dict[str, Any] | None = (reply.get("metrics") or {}).get("speculative_decoding")
        return None if found is None else found["nemotron_diffusion"]

    def settled(self, condition: Callable[[Metrics], bool] = lambda metrics: True) -> Metrics:
        """The counters once nothing runs and `condition` holds; the server updates its own after it answers."""
        end = time.monotonic() + 30.0
        while True:
            metrics = self.metrics()
            busy = metrics.total("vllm:num_requests_running") + metrics.total("vllm:num_requests_waiting")
            if (not busy and condition(metrics)) or time.monotonic() > end:
                return metrics
            time.sleep(0.1)


def _answer(choice: dict[str, Any]) -> Answer:
    said = choice.get("logprobs") or {"token_logprobs": [], "top_logprobs": []}
    top = [sorted(one.values(), reverse=True) for one in said["top_logprobs"] if one is not None]
    ids, reason, text = choice["token_ids"], choice["finish_reason"], choice["text"]
    return Answer(ids, reason, text, said["token_logprobs"], top, choice)
