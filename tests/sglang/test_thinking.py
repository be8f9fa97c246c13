"""A thinking budget, which SGLang keeps by a grammar of its own (`--enable-strict-thinking`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.common.cases import Case, mixed_cases
from tests.served.endpoint import CHAT
from tests.served.setups import on
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("thinking")]
QUESTION = "Add 276 and 548 step by step."


def ask(running: Running, mode: str, budget: int | None) -> Any:
    options: dict[str, Any] = {"decoding_mode": mode}
    if budget is not None:
        options["thinking_budget"] = budget
    return running.endpoint.post(
        CHAT,
        options,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=60,
        chat_template_kwargs={"enable_thinking": True},
    )


def thought_and_answer(running: Running, mode: str, budget: int | None) -> tuple[str, str]:
    reply = ask(running, mode, budget)
    assert reply.status_code == 200, reply.text
    [choice] = reply.json()["choices"]
    return choice["message"]["reasoning_content"], choice["message"]["content"]


@pytest.mark.parametrize("budget", [None, 3, 1])
def test_a_budget_ends_the_thought_alike_in_ar_and_self_speculation(
    running: Running, budget: int | None
) -> None:
    thought, answer = thought_and_answer(running, "ar", budget)
    assert (thought, answer) == thought_and_answer(running, "self_speculation", budget)
    assert (thought, answer) == thought_and_answer(running, "auto", budget)
    free, _ = thought_and_answer(running, "ar", None)
    assert free.startswith(thought.strip())
    assert (len(thought) < len(free)) is (budget is not None)
    assert answer.startswith("Ones: 6 + 8")


def test_a_budget_in_diffusion_is_refused(running: Running) -> None:
    reply = ask(running, "diffusion", 3)
    assert reply.status_code == 400
    assert "'thinking_budget': got 3" in reply.text
    assert ask(running, "diffusion", None).status_code == 200


def test_everybody_beside_it_is_right(running: Running) -> None:
    """A batch in which every request has a grammar: tokens are the reference decoder's in every mode."""
    cases = [
        Case(case.prompt, case.max_tokens, case.options, ignore_eos=True)
        for case in mixed_cases(running.reference.config.vocab_size, seed=8, count=9, most_tokens=40)
    ]
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
