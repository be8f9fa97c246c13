"""The tokenizer builder: published special ids, chat template, round trips."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nemotron_diffusion_plugin.tools.training.tokenizer import build_tokenizer, write_tokenizer

EMPTY_SYSTEM = "<|im_start|>system\n<|im_end|>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 1024)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("<s>", 1),
        ("</s>", 2),
        ("<|im_start|>", 10),
        ("<|im_end|>", 11),
        ("<think>", 12),
        ("</think>", 13),
        ("<SPECIAL_100>", 100),
        ("<SPECIAL_127>", 127),
    ],
)
def test_special_ids_are_the_published_ones(tokenizer, text: str, token: int) -> None:
    assert tokenizer.encode(text) == [token]
    assert tokenizer.convert_ids_to_tokens(token) == text


def test_a_text_that_holds_the_mask_token_encodes_to_its_id(tokenizer) -> None:
    before, after = tokenizer.encode("what is "), tokenizer.encode("?")
    assert tokenizer.encode("what is <SPECIAL_100>?") == [*before, 100, *after]


def test_end_and_beginning_of_sequence(tokenizer, folder: Path) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 11, None)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 11


def test_no_beginning_of_sequence_is_added(tokenizer) -> None:
    assert 1 not in tokenizer.encode("hello")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True
    )
    assert rendered["input_ids"][0] == 10
    assert 1 not in rendered["input_ids"]


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        (
            [("user", "Hi")],
            {},
            EMPTY_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>",
        ),
        (
            [("user", "Hi")],
            {"enable_thinking": True},
            EMPTY_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
        ),
        (
            [("system", "Be brief."), ("user", "Hi")],
            {"enable_thinking": False},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>",
        ),
        (
            [("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye")],
            {},
            EMPTY_SYSTEM
            + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>Hello!<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n<think></think>",
        ),
    ],
)
def test_chat_template(tokenizer, messages, options: dict, expected: str) -> None:
    turns = [{"role": role, "content": content} for role, content in messages]
    assert (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)
        == expected
    )


def test_a_later_turn_extends_the_tokens_of_the_earlier_one(tokenizer) -> None:
    first = [{"role": "user", "content": "Sort these words: fox, bear."}]
    answer = "Sorted: bear, fox."
    prompt = tokenizer.apply_chat_template(first, add_generation_prompt=True)["input_ids"]
    later = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "Thanks"}]
    rendered = tokenizer.apply_chat_template(later, add_generation_prompt=True)["input_ids"]
    seen = [*prompt, *tokenizer.encode(answer), 11]
    assert rendered[: len(seen)] == seen


def test_digits_are_single_tokens(tokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2026")) == ["2", "0", "2", "6"]


def test_every_id_decodes(tokenizer) -> None:
    assert len(tokenizer) == 1024
    assert all(tokenizer.convert_ids_to_tokens(token) is not None for token in range(1024))


BUILT = Tokenizer.from_str(build_tokenizer(1024, ["one two three"]))


@given(st.text())
def test_text_round_trips(text: str) -> None:
    assert BUILT.decode(BUILT.encode(text).ids, skip_special_tokens=False) == text


def test_the_same_input_gives_the_same_file() -> None:
    corpus = ["one two three", "two three four"]
    assert build_tokenizer(512, corpus) == build_tokenizer(512, corpus)


@pytest.mark.parametrize("vocab_size", [384, 700, 5000])
def test_any_vocabulary_size_is_filled(vocab_size: int) -> None:
    built = Tokenizer.from_str(build_tokenizer(vocab_size, ["one two three"]))
    assert built.get_vocab_size() == vocab_size
    assert {built.id_to_token(token) is not None for token in range(vocab_size)} == {True}


def test_a_vocabulary_too_small_for_the_special_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size: got 383, expected at least 384"):
        build_tokenizer(383, [])
