"""A small byte-level BPE tokenizer with the published special ids and chat template."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.training import vocabulary as v
from nemotron_diffusion_plugin.tools.training.tasks import SMALL_TALK, draw

BOS_ID = 1
EOS_ID = 11
MASK_ID = 100
NUM_SPECIAL_TOKENS = 128
NUM_BYTES = 256
MIN_VOCAB_SIZE = NUM_SPECIAL_TOKENS + NUM_BYTES
MAX_TRAINED_VOCAB_SIZE = 2048

NAMED_SPECIAL_TOKENS = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    10: "<|im_start|>",
    11: "<|im_end|>",
    12: "<think>",
    13: "</think>",
    18: "<|image_start|>",
    19: "<|image_pad|>",
    20: "<|image_break|>",
    21: "<|image_end|>",
}
VISIBLE_SPECIAL_TOKENS = frozenset({"<think>", "</think>"})

CHAT_TEMPLATE = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}"
    "{%- set system = '' -%}{%- set turns = messages -%}"
    "{%- endif -%}"
    "{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}"
    "{%- for message in turns -%}"
    "{%- if message['role'] == 'assistant' and not message['content'].startswith('<think>') -%}"
    "{{- '<|im_start|>assistant\\n<think></think>' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- else -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{{- '<think>\\n' if enable_thinking is defined and enable_thinking else '<think></think>' -}}"
    "{%- endif -%}"
)


def special_tokens() -> list[str]:
    """The texts of ids 0 to ``NUM_SPECIAL_TOKENS - 1``; unnamed ids are ``<SPECIAL_{id}>`` (docs/model.md, 1.4)."""
    return [NAMED_SPECIAL_TOKENS.get(index, f"<SPECIAL_{index}>") for index in range(NUM_SPECIAL_TOKENS)]


def sample_texts(count: int = 6000, seed: int = 0) -> Iterator[str]:
    """Yield training-split texts from which the tokenizer learns its merges."""
    rng = random.Random(seed)
    for questions, answer in SMALL_TALK:
        yield from (*questions, answer)
    for word in (*v.WORDS, *v.NAMES, *v.CITIES, *v.FOODS, *v.JOBS):
        yield from [f" {word}", word] * 20
    yield from ["system user assistant You are a helpful assistant."] * 20
    for _ in range(count):
        task = draw(rng, held_out=False)
        yield task.question
        yield task.answer


def build_tokenizer(vocab_size: int, corpus: Iterable[str]) -> str:
    """Train the tokenizer on ``corpus`` and return its ``tokenizer.json`` text, the same for the same input.

    Ids 0-127 are special, the next 256 are the bytes, the rest are merges; ids beyond what ``corpus`` yields
    are filler entries that no text encodes to, so that every id below ``vocab_size`` decodes.
    Raises ValueError when ``vocab_size`` cannot hold the special tokens and the bytes.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size: got {vocab_size}, expected at least {MIN_VOCAB_SIZE} "
            f"({NUM_SPECIAL_TOKENS} special tokens and {NUM_BYTES} bytes)"
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, MAX_TRAINED_VOCAB_SIZE),
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in special_tokens()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    for index in range(len(vocab), vocab_size):
        vocab[f"<filler_{index}>"] = index
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in VISIBLE_SPECIAL_TOKENS
    return json.dumps(content, ensure_ascii=False, indent=1)


def write_tokenizer(folder: Path | str, vocab_size: int) -> None:
    """Write tokenizer, chat template and generation config of the published layout (docs/model.md, 1.4).

    The tokenizer learns from texts of the training recipe. Raises ValueError like :func:`build_tokenizer`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(build_tokenizer(vocab_size, sample_texts()), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "tokenizer_config.json",
        {
            **names,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS_ID, "do_sample": False, "eos_token_id": EOS_ID},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
