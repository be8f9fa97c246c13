"""Training conversations in the chat format, as token ids with the spans of their answers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.tokenizer import load_plain_tokenizer
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.tokenizer import EOS_ID

SYSTEM_MESSAGES = ("You are a helpful assistant.", "Answer briefly.")
SYSTEM_MESSAGE_SHARE = 0.1
SMALL_TALK_SHARE = 0.02
THINKING_SHARE = 0.04
MORE_TURNS_SHARE = 0.2
MAX_TURNS = 5


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids with the half-open spans of the answers; a span's last token is the end-of-turn token."""

    tokens: list[int]
    answers: list[tuple[int, int]]


class ChatEncoder:
    """Turns questions and answers into the token ids that the chat template yields (docs/model.md, 1.4)."""

    def __init__(self, folder: Path | str) -> None:
        """Raises ValueError where the folder's tokenizer cannot be read."""
        self._tokenizer: Any = load_plain_tokenizer(Path(folder))

    def encode(self, text: str) -> list[int]:
        """Encode ``text``; special tokens written in it become their ids."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Decode ``tokens`` without special tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def prompt(self, question: str, system: str = "", thinking: bool = False) -> list[int]:
        """Encode the rendered prompt of one user turn."""
        return self.encode(f"<|im_start|>system\n{system}<|im_end|>\n") + self._turn(question, thinking)

    def conversation(self, turns: list[tuple[str, str, bool]], system: str = "") -> Conversation:
        """Encode ``turns`` of (question, answer, thinking) with their answer spans."""
        tokens = self.encode(f"<|im_start|>system\n{system}<|im_end|>\n")
        answers = []
        for index, (question, answer, thinking) in enumerate(turns):
            if index:
                tokens += self.encode("\n")
            tokens += self._turn(question, thinking)
            start = len(tokens)
            tokens += [*self.encode(answer), EOS_ID]
            answers.append((start, len(tokens)))
        return Conversation(tokens, answers)

    def _turn(self, question: str, thinking: bool) -> list[int]:
        opening = "<think>\n" if thinking else "<think></think>"
        return self.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{opening}")


def draw_conversation(
    rng: random.Random, encoder: ChatEncoder, weights: Mapping[str, float] | None = None
) -> Conversation:
    """Draw a conversation of the training split: mostly one turn, sometimes several or with thinking."""
    system = rng.choice(SYSTEM_MESSAGES) if rng.random() < SYSTEM_MESSAGE_SHARE else ""
    count = rng.randint(2, MAX_TURNS) if rng.random() < MORE_TURNS_SHARE else 1
    turns = []
    for _ in range(count):
        small_talk = rng.random() < SMALL_TALK_SHARE
        task = tasks.draw_small_talk(rng) if small_talk else tasks.draw(rng, held_out=False, weights=weights)
        thinking = count == 1 and rng.random() < THINKING_SHARE
        answer = f"This is about {task.category}.\n</think>{task.answer}" if thinking else task.answer
        turns.append((task.question, answer, thinking))
    return encoder.conversation(turns, system)
