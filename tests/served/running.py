"""A server that answers, a client of it, and the reference decoder with its limits."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.common.cases import MODES, Case, Reference
from tests.engines.server import EngineServer
from tests.served.client import Answer, Client
from tests.served.endpoint import Endpoint
from tests.served.metrics import Metrics

C = TypeVar("C", bound=Client)

OUR_LINE = re.compile(r'File ".*/nemotron_diffusion_plugin/')
"""A line of the plugin in a traceback; the patches only call on what they wrap."""
LOGGED_WITHIN = 5.0  # seconds until an error that was answered is in the log


@dataclass
class Running(ABC, Generic[C]):
    """What a test gets of the server it asks for.

    Attributes:
        folder: where the server's log and whatever else it writes lies.
    """

    name: str
    setup: Any
    server: EngineServer
    client: C
    reference: Reference
    folder: Path

    options_field = ""
    """The field of a body that carries the decoding options."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.client.http, self.client.model, self.options_field)

    @abstractmethod
    def idle(self) -> bool:
        """Whether, after a while at most, nothing runs or waits and no KV is held."""

    @abstractmethod
    def was_interrupted(self, before: Metrics, after: Metrics) -> bool:
        """Whether requests were preempted or retracted, whose blocks are drafted again and honestly counted."""

    @abstractmethod
    def complete_with_hits(self, case: Case, **fields: Any) -> tuple[Answer, int]:
        """The answer, and how many tokens of its prompt came from the prefix cache."""

    @abstractmethod
    def is_known_error(self, path: str, content: bytes) -> bool:
        """Whether the engine itself answers this body with 500, whatever the model (tests/README.md)."""

    def is_of_the_engine(self, log_size: int) -> bool:
        """Whether the engine logged an error since its log had `log_size` bytes, and no line of ours was in it."""
        deadline = time.monotonic() + LOGGED_WITHIN
        while time.monotonic() < deadline:
            logged = self.server.log.read_bytes()[log_size:].decode(errors="replace")
            if "Traceback (most recent call last)" in logged:
                return OUR_LINE.search(logged) is None
            time.sleep(0.1)
        return False

    @abstractmethod
    def detokenize(self, token_ids: list[int]) -> str:
        """The text of token ids as the server's tokenizer writes it, special tokens included."""

    def tokenize(self, text: str) -> list[int]:
        body = {"model": self.client.model, "prompt": text, "add_special_tokens": False}
        return list(self.client.post(body, path="/tokenize").json()["tokens"])

    def check_answers(self, cases: Sequence[Case], answers: Sequence[Answer]) -> None:
        """Tokens and reasons are the reference decoder's."""
        for case, answer in zip(cases, answers, strict=True):
            expected = self.reference.generate(case)
            assert answer.token_ids == expected.token_ids, case
            assert answer.finish_reason == expected.finish_reason, case

    def check_forwards(
        self, cases: Sequence[Case], before: Metrics, after: Metrics, modes: Sequence[str] = MODES
    ) -> None:
        """The forwards counted for cases are the reference decoder's, unless one was interrupted."""
        if self.was_interrupted(before, after):
            return
        for mode in modes:
            counted = forwards_between(before, after, mode)
            expected = self.reference.totals(cases, mode)
            if (
                self.setup.cuts_blocks and len(cases) > 1
            ):  # a block that the budget cuts is committed in parts
                assert counted.pop("verify") >= expected.pop("verify"), mode
                assert counted.pop("draft") >= expected.pop("draft"), mode
            assert counted == expected, mode

    def check(self, cases: Sequence[Case], **fields: Any) -> list[Answer]:
        """Answers to all cases at once, of which tokens, reasons and forwards are the reference decoder's."""
        before = self.client.settled()
        answers = self.client.complete_all(cases, **fields)
        after = self.client.settled()
        self.check_answers(cases, answers)
        self.check_forwards(cases, before, after)
        return answers


def forwards_between(before: Metrics, after: Metrics, mode: str) -> dict[str, int]:
    """Forwards of a decoding mode by kind."""
    return {kind: count - before.forwards(mode)[kind] for kind, count in after.forwards(mode).items()}
