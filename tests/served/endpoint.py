"""A server as its users see it: the OpenAI paths, which differ only in the field that carries the decoding options."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

VLLM, SGLANG = "vllm_xargs", "custom_params"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
"""No connection is used twice: the server, or another thread, may close an idle one just as it is used."""


@dataclass(frozen=True)
class Endpoint:
    """Where a server of either engine listens; `http` may be used from several threads.

    Attributes:
        options_field: the field of a body that carries the decoding options, `VLLM` or `SGLANG`.
    """

    http: httpx.Client
    model: str
    options_field: str

    def body(self, options: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The JSON body of a request with decoding options."""
        return {"model": self.model, self.options_field: options, **fields}

    def post(self, path: str, options: dict[str, Any], **fields: Any) -> httpx.Response:
        return self.http.post(path, json=self.body(options, **fields))

    def choices(self, path: str, options: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
        """The choices of an answer; fails the test on anything but 200."""
        reply = self.post(path, options, **fields)
        assert reply.status_code == 200, reply.text
        choices: list[dict[str, Any]] = reply.json()["choices"]
        return choices

    def chat(self, options: dict[str, Any], question: str, **fields: Any) -> dict[str, Any]:
        """The one choice of a chat about one question."""
        messages = [{"role": "user", "content": question}]
        [choice] = self.choices(CHAT, options, messages=messages, **fields)
        return choice

    def regex(self, pattern: str) -> dict[str, Any]:
        """The fields that constrain an answer to a regular expression."""
        return {"structured_outputs": {"regex": pattern}} if self._is_vllm else {"regex": pattern}

    def choice(self, texts: list[str]) -> dict[str, Any]:
        """The fields that constrain an answer to one of some texts; SGLang has no field of its own for that."""
        if self._is_vllm:
            return {"structured_outputs": {"choice": texts}}
        return self.regex("|".join(map(re.escape, texts)))

    def grammar(self, ebnf: str) -> dict[str, Any]:
        """The fields that constrain an answer to a grammar in xgrammar's EBNF."""
        return {"structured_outputs": {"grammar": ebnf}} if self._is_vllm else {"ebnf": ebnf}

    def schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The fields of a completion that constrain an answer to a JSON schema."""
        if self._is_vllm:
            return {"structured_outputs": {"json": schema}}
        return {"json_schema": json.dumps(schema)}

    @property
    def _is_vllm(self) -> bool:
        return self.options_field == VLLM
