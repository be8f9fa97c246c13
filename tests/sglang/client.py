"""A small client of SGLang's own endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.common.cases import Case
from tests.served import client
from tests.served.client import Answer
from tests.served.metrics import Metrics

SAMPLING = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
    "include_stop_str_in_output": "no_stop_trim",
} | {
    name: name
    for name in (
        *("temperature", "top_p", "top_k", "min_p", "n", "stop", "stop_token_ids", "skip_special_tokens"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
        *(
            "regex",
            "json_schema",
            "ebnf",
            "custom_params",
            "max_new_tokens",
            "min_new_tokens",
            "sampling_seed",
        ),
    )
}
"""Fields that SGLang takes among its sampling parameters, and their names there."""


class Client(client.Client):
    """Talks to one server; may be used from several threads."""

    path = "/generate"
    metrics_path = "/metrics/"

    def body(self, case: Case, **fields: Any) -> dict[str, Any]:
        """The JSON body of a case, `fields` sorted into it and its sampling parameters."""
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
        parameters |= {SAMPLING[name]: value for name, value in fields.items() if name in SAMPLING}
        more = {name: value for name, value in fields.items() if name not in SAMPLING}
        if (count := more.pop("logprobs", None)) is not None:
            more |= {"return_logprob": True, "top_logprobs_num": count}
        return {"input_ids": case.prompt, "sampling_params": parameters, **more}

    def read(self, reply: Any) -> list[Answer]:
        return [_answer(one) for one in (reply if isinstance(reply, list) else [reply])]

    def events(self, case: Case, **fields: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed request as SGLang's own endpoint sends them, decoded."""
        body = self.body(case, **fields, stream=True)
        with self.http.stream("POST", self.path, json=body) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def stream(self, case: Case, **fields: Any) -> Iterator[Any]:
        extra = {"ignore_eos": case.ignore_eos, "custom_params": case.options, "return_token_ids": True}
        standard = {name: fields.pop(name) for name in ("stop", "stream_options") if name in fields}
        yield from self.openai.completions.create(
            model=self.model,
            prompt=case.prompt,
            max_tokens=case.max_tokens,
            temperature=0,
            stream=True,
            extra_body={**extra, **fields},
            **standard,
        )

    def last_event(self, case: Case) -> dict[str, Any]:
        *_, last = self.events(case)
        return last

    def counts(self, reply: Any) -> dict[str, Any] | None:
        found = reply["meta_info"].get("nemotron_diffusion")
        if found is None:
            return None
        [one] = found
        return dict(one)

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


def _answer(reply: dict[str, Any]) -> Answer:
    meta, ids = reply["meta_info"], reply["output_ids"]
    reason, values = meta["finish_reason"], meta.get("output_token_logprobs") or []
    assert not values or [token for _, token, _ in values] == ids, "log-probabilities of the tokens returned"
    top = [[value for value, _, _ in one] for one in meta.get("output_top_logprobs") or []]
    said = [value for value, _, _ in values]
    return Answer(ids, reason and reason["type"], reply["text"], said, top, meta)
