"""Conversations in the chat format: the same ids as the chat template, answers where their spans say."""

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder, draw_conversation
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 1024)
    return folder


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("system", ["", "Answer briefly."])
def test_a_prompt_is_what_the_chat_template_renders(folder: Path, system: str, thinking: bool) -> None:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "Repeat: fox bear"})
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=thinking
    )["input_ids"]
    assert ChatEncoder(folder).prompt("Repeat: fox bear", system, thinking) == expected


def test_later_turns_are_what_the_chat_template_renders(folder: Path) -> None:
    messages = [
        {"role": "user", "content": "Repeat: fox"},
        {"role": "assistant", "content": "fox"},
        {"role": "user", "content": "Repeat: bear"},
        {"role": "assistant", "content": "bear"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = tokenizer.apply_chat_template(messages)["input_ids"]
    turns = [("Repeat: fox", "fox", False), ("Repeat: bear", "bear", False)]
    conversation = ChatEncoder(folder).conversation(turns)
    assert [*conversation.tokens, *tokenizer.encode("\n")] == expected
    answers = [tokenizer.decode(conversation.tokens[start:end]) for start, end in conversation.answers]
    assert answers == ["fox<|im_end|>", "bear<|im_end|>"]


def test_drawn_conversations_fit_the_model(folder: Path) -> None:
    rng, encoder = random.Random(0), ChatEncoder(folder)
    drawn = [draw_conversation(rng, encoder) for _ in range(300)]
    assert max(len(conversation.tokens) for conversation in drawn) < 1024
    assert {len(conversation.answers) for conversation in drawn} == {1, 2, 3, 4, 5}
    for conversation in drawn:
        for start, end in conversation.answers:
            assert conversation.tokens[end - 1] == 11
            assert 11 not in conversation.tokens[start : end - 1]
