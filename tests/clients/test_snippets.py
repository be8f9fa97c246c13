"""The page of clients is one that its test can run: what the test replaces stands in every snippet."""

from __future__ import annotations

import pytest

from tests.clients.snippets import MODEL, ON_SGLANG, PAGE, URL, snippets


@pytest.mark.parametrize("client", snippets())
def test_a_snippet_names_server_model_and_options(client: str) -> None:
    _, text = snippets()[client]
    for word in (URL, MODEL, '"vllm_xargs": {"decoding_mode": "diffusion"'):
        assert word in text


def test_the_page_says_what_to_replace_for_sglang() -> None:
    head = PAGE.read_text(encoding="utf-8").partition("## ")[0]
    for old, new in {**ON_SGLANG, URL: "http://localhost:30000"}.items():
        assert any(old in line and new in line for line in head.splitlines() if line.startswith("|")), old
