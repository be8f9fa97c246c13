"""What is asked: prompts by category, from the tiny model's held-out tasks or from files of the user."""

from __future__ import annotations

import itertools
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = "tiny"
SPEED_BENCH_PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED"
SPEED_BENCH_HELP = (
    "SPEED-Bench cannot be bundled, its licence forbids it. Prepare it with NVIDIA's script "
    "(nemo_skills/dataset/speed-bench/prepare.py of github.com/NVIDIA-NeMo/Skills), which fetches every source, and "
    "name the folder that holds qualitative.jsonl"
)
_NO_CATEGORY = "all"
_MOST_DRAWS = 100
_ASKING = {"human": "user", "user": "user", "system": "system"}


@dataclass(frozen=True)
class Prompt:
    """One chat request: its messages, and the only right answer where there is one."""

    category: str
    messages: tuple[dict[str, str], ...]
    answer: str | None = None

    def is_right(self, text: str) -> bool | None:
        """Whether `text` is the answer, word for word; None where no answer is known."""
        return None if self.answer is None else text.strip() == self.answer.strip()


class Source(ABC):
    """Prompts by category, each category in an order that `seed` decides; none comes twice while there are others."""

    def __init__(self, categories: Sequence[str], seed: int) -> None:
        self.categories, self.seed = tuple(categories), seed
        self._streams = {category: self._stream(category) for category in self.categories}
        self._seen: dict[str, list[Prompt]] = {category: [] for category in self.categories}

    def take(self, category: str, start: int, count: int) -> list[Prompt]:
        """Return `count` prompts of a category from place `start` of its order."""
        seen = self._seen[category]
        seen.extend(itertools.islice(self._streams[category], max(0, start + count - len(seen))))
        return seen[start : start + count]

    def different(self, category: str, most: int) -> list[Prompt]:
        """Return the first prompts of a category's order, fewer than `most` where it has fewer; they differ."""
        return _different(self.take(category, 0, most))

    def mixed(self, start: int, count: int) -> list[Prompt]:
        """Return `count` prompts, one of each category in turn, from place `start` of their orders."""
        each = len(self.categories)
        return [
            self.take(self.categories[number % each], start + number // each, 1)[0] for number in range(count)
        ]

    @abstractmethod
    def _stream(self, category: str) -> Iterator[Prompt]:
        """Yield the prompts of a category for ever."""


class TinyTasks(Source):
    """Held-out tasks of the bundled model's training recipe."""

    def _stream(self, category: str) -> Iterator[Prompt]:
        from nemotron_diffusion_plugin.tools.training.tasks import draw

        rng = random.Random(f"{self.seed} {category}")
        asked: set[str] = set()
        while True:
            for _ in range(_MOST_DRAWS):
                task = draw(rng, held_out=True, category=category)
                if task.question not in asked:
                    break
            asked.add(task.question)
            yield Prompt(category, ({"role": "user", "content": task.question},), task.answer)


class Fixed(Source):
    """A finite set of prompts: shuffled, and from the start again when it is used up."""

    def __init__(self, prompts: Sequence[Prompt], categories: Sequence[str], seed: int) -> None:
        self.prompts = _different(prompts)
        super().__init__(categories, seed)

    def _stream(self, category: str) -> Iterator[Prompt]:
        prompts = [prompt for prompt in self.prompts if prompt.category == category]
        random.Random(f"{self.seed} {category}").shuffle(prompts)
        return itertools.cycle(prompts)


def _different(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return the prompts without those that came before."""
    return list({json.dumps([p.category, p.messages, p.answer]): p for p in prompts}.values())


def open_source(data: str, categories: Sequence[str] | None, seed: int) -> Source:
    """Return the prompts of `data`, all `categories` of them where None are named.

    `data` is "tiny", a JSONL file of messages, a ShareGPT-style JSON file, or a SPEED-Bench folder.

    Raises:
        ValueError: the data does not exist or is not in the expected form, or there is no such category.
    """
    if data == TINY:
        from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES

        return TinyTasks(_chosen(categories, list(CATEGORIES), data), seed)
    path = Path(data)
    if path.is_dir():
        prompts = _speed_bench(path)
    elif not path.exists():
        raise ValueError(
            f"--data {data}: no such file or folder, expected '{TINY}', a .jsonl of messages, a ShareGPT-style .json "
            f"or a SPEED-Bench folder"
        )
    elif path.suffix == ".json":
        prompts = _share_gpt(path)
    else:
        prompts = _jsonl(path)
    known = list(dict.fromkeys(prompt.category for prompt in prompts))
    if not known:
        raise ValueError(f"{path}: no prompts in it")
    return Fixed(prompts, _chosen(categories, known, data), seed)


def _chosen(wanted: Sequence[str] | None, known: Sequence[str], data: str) -> list[str]:
    unknown = [category for category in wanted or () if category not in known]
    if unknown:
        raise ValueError(
            f"--categories: unknown category '{unknown[0]}' of {data}, expected {', '.join(known)}"
        )
    return list(dict.fromkeys(wanted)) if wanted else list(known)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected an object with 'messages'")
            yield where, row


def _jsonl(path: Path) -> list[Prompt]:
    """Each line `{"messages": [{"role": "user", "content": …}], "category": …, "answer": …}`, the last two optional."""
    prompts = []
    for where, row in _rows(path):
        answer = row.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise ValueError(f"{where}: field 'answer': expected a text")
        prompts.append(
            Prompt(str(row.get("category", _NO_CATEGORY)), _messages(where, row.get("messages")), answer)
        )
    return prompts


def _messages(where: str, messages: object) -> tuple[dict[str, str], ...]:
    """Check messages and drop the answers at their end, which the model is to give."""
    expected = "expected a list of {'role': …, 'content': text} with a user's message in it"
    if not isinstance(messages, list):
        raise ValueError(f"{where}: field 'messages': {expected}")
    kept: list[dict[str, str]] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"{where}: field 'messages': {expected}")
        kept.append({"role": str(message.get("role")), "content": message["content"]})
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    if not any(message["role"] == "user" for message in kept):
        raise ValueError(f"{where}: field 'messages': {expected}")
    return tuple(kept)


def _share_gpt(path: Path) -> list[Prompt]:
    """`[{"conversations": [{"from": "human", "value": …}, …]}, …]`: the turns up to the first answer.

    Every speaker but "human", "user" and "system" answers: "gpt", but also "chatgpt", "bing", "bard" and others.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of objects with 'conversations', as ShareGPT has them")
    prompts = []
    for index, row in enumerate(content):
        where = f"{path}: [{index}]"
        turns = row.get("conversations") if isinstance(row, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{where}: expected an object with 'conversations'")
        asked = itertools.takewhile(lambda turn: str(turn.get("from")) in _ASKING, turns)
        messages = [{"role": _ASKING[turn["from"]], "content": turn.get("value")} for turn in asked]
        if any(message["role"] == "user" for message in messages):
            prompts.append(Prompt(_NO_CATEGORY, _messages(where, messages)))
    return prompts


def _speed_bench(folder: Path) -> list[Prompt]:
    """`qualitative.jsonl` as NVIDIA's script writes it: `messages` or `turns`, and `category`."""
    path = folder / "qualitative.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: has no qualitative.jsonl. {SPEED_BENCH_HELP}")
    prompts = []
    for where, row in _rows(path):
        turns = row.get("turns")
        given = row.get("messages") or [{"role": "user", "content": turn} for turn in (turns or [])[:1]]
        messages = _messages(where, given)
        if any(SPEED_BENCH_PLACEHOLDER in message["content"] for message in messages):
            raise ValueError(f"{where}: a placeholder instead of the prompt. {SPEED_BENCH_HELP}")
        first = next(place for place, message in enumerate(messages) if message["role"] == "user")
        prompts.append(Prompt(str(row.get("category", _NO_CATEGORY)), messages[: first + 1]))
    return prompts
