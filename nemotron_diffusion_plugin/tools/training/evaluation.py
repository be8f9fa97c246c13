"""Scores of a checkpoint on the held-out split, by category and mode, with the reference decoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.result import Generation
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder

MAX_NEW_TOKENS = 160
VARIANTS: dict[str, DecodingOptions] = {
    "ar": DecodingOptions(decoding_mode=DecodingMode.AR),
    "diffusion": DecodingOptions(decoding_mode=DecodingMode.DIFFUSION, threshold=0.9),
    "self_speculation": DecodingOptions(decoding_mode=DecodingMode.SELF_SPECULATION, draft_lora=True),
    "self_speculation without LoRA": DecodingOptions(
        decoding_mode=DecodingMode.SELF_SPECULATION, draft_lora=False
    ),
}


@dataclass(slots=True)
class Score:
    """Counts of one category in one variant; an answer's first token belongs to no cycle."""

    asked: int = 0
    right: int = 0
    tokens: int = 0
    forwards: int = 0
    cycles: int = 0
    questions_missed: list[str] = field(default_factory=list)

    def add(self, task: tasks.Task, text: str, generation: Generation) -> None:
        """Count one answer."""
        self.asked += 1
        self.tokens += len(generation.token_ids)
        self.forwards += generation.forwards
        self.cycles += len(generation.accepted)
        if task.is_right(text):
            self.right += 1
        else:
            self.questions_missed.append(task.question)

    def merge(self, other: Score) -> None:
        """Add the counts of ``other``."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    @property
    def accuracy(self) -> float:
        """The share of answers that are right word for word."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Emitted tokens per forward, the prompt's prefill not counted."""
        return self.tokens / self.forwards if self.forwards else 0.0

    @property
    def acceptance_length(self) -> float:
        """Emitted tokens per draft and verify cycle, bonus included, trimmed tokens not counted."""
        return (self.tokens - self.asked) / self.cycles if self.cycles else 0.0


def held_out_tasks(category: str, count: int, seed: int) -> list[tasks.Task]:
    """Return ``count`` held-out tasks of a category, the same for the same ``seed`` whatever they are asked for."""
    rng = random.Random(f"{seed} {category}")
    return [tasks.draw(rng, held_out=True, category=category) for _ in range(count)]


def evaluate(
    decoder: ReferenceDecoder,
    encoder: ChatEncoder,
    *,
    per_category: int,
    seed: int,
    categories: Iterable[str] = tuple(tasks.CATEGORIES),
    variants: Iterable[str] = tuple(VARIANTS),
    on_answer: Callable[[], None] | None = None,
) -> dict[str, dict[str, Score]]:
    """Answer ``per_category`` held-out questions of each category; return scores[variant][category]."""
    chosen = list(variants)
    scores: dict[str, dict[str, Score]] = {variant: {} for variant in chosen}
    for category in categories:
        drawn = held_out_tasks(category, per_category, seed)
        for variant in chosen:
            score = scores[variant][category] = Score()
            for task in drawn:
                generation = decoder.generate(
                    encoder.prompt(task.question), MAX_NEW_TOKENS, VARIANTS[variant]
                )
                score.add(task, encoder.decode(generation.token_ids), generation)
                if on_answer is not None:
                    on_answer()
    return scores


def total(scores: dict[str, Score]) -> Score:
    """Return the sum over the categories."""
    result = Score()
    for score in scores.values():
        result.merge(score)
    return result


def format_table(scores: dict[str, dict[str, Score]]) -> str:
    """Render all variants' ``scores`` as a Markdown table, one row a category and one for all of them."""
    lines = [
        "| category | AR right | diffusion right | diffusion TPF | AL with LoRA | AL without LoRA |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    columns = [scores[variant] for variant in VARIANTS]
    for category in [*columns[0], "all"]:
        ar, diffusion, with_lora, without = (
            total(column) if category == "all" else column[category] for column in columns
        )
        lines.append(
            f"| {category} | {100 * ar.accuracy:.1f} % | {100 * diffusion.accuracy:.1f} % "
            f"| {diffusion.tokens_per_forward:.2f} "
            f"| {with_lora.acceptance_length:.2f} | {without.acceptance_length:.2f} |"
        )
    return "\n".join(lines)
