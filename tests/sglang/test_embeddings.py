"""A prompt given as embeddings gets the answer of its tokens; SGLang hands embeddings on in another dtype than ours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.served.test_bad_input import message_of
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on(long=["triton"])]

NAME = "encoder.embed_tokens.weight"


@pytest.mark.parametrize("mode", MODES)
def test_embeddings_of_tokens(running: Running, mode: str) -> None:
    case = Case(
        prompt(random.Random(2), 9, running.reference.config.vocab_size),
        12,
        {"decoding_mode": mode},
        ignore_eos=True,
    )
    body = running.client.body(case)
    asked: dict[str, Any] = {name: value for name, value in body.items() if name != "input_ids"}
    [weights] = Path(running.client.model).glob("*.safetensors")
    with safe_open(weights, "pt") as file:
        rows = file.get_tensor(NAME)[body["input_ids"]].float().tolist()
    answer = running.client.post({**asked, "input_embeds": rows})
    assert answer.status_code == 200, answer.text
    assert answer.json()["output_ids"] == running.client.complete(case).token_ids
    short = running.client.post({**asked, "input_embeds": [row[:-1] for row in rows]})
    assert f"'input_embeds': got a row of {len(rows[0]) - 1}" in message_of(short)
