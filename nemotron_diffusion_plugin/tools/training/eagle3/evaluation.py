"""How many drafts of an Eagle3 head the target accepts on held-out questions, without an engine.

Greedy decoding emits the target's own answer whatever the head drafts. So the answers are decoded once, and one pass
over each answer says how many drafts would be accepted from every place of it, at every depth of drafting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.eagle3.head import Eagle3Head, read_target
from nemotron_diffusion_plugin.tools.training.evaluation import MAX_NEW_TOKENS, held_out_tasks

DEPTHS = (3, 5, 7, 15, 31)
"""Drafts of a cycle: what Eagle3 is usually served with, and as many as a block of 16 or 32 has."""

_AR = DecodingOptions(decoding_mode=DecodingMode.AR)


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer of the target.

    ``emitted``: its tokens, the end-of-turn token included; ``beyond``: what the target would go on with, at least
    as many tokens as a cycle drafts, because the last verify forward accepts drafts past the end.
    """

    prompt: list[int]
    emitted: list[int]
    beyond: list[int]


@dataclass(slots=True)
class DraftScore:
    """Counts of cycles; an answer's first token belongs to no cycle.

    ``tokens``: emitted; ``accepted_at``: for each place in the draft the cycles whose verify forward accepted it,
    those past the end of an answer included, as engines count.
    """

    depth: int
    answers: int = 0
    tokens: int = 0
    cycles: int = 0
    accepted_at: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accepted_at = self.accepted_at or [0] * self.depth

    @property
    def acceptance_length(self) -> float:
        """Emitted tokens per cycle, the bonus included; tokens past the end are not counted."""
        return (self.tokens - self.answers) / self.cycles if self.cycles else 0.0

    @property
    def counted_acceptance_length(self) -> float:
        """One and the accepted drafts per cycle, as an engine's counters give it."""
        return 1.0 + sum(self.accepted_at) / self.cycles if self.cycles else 0.0

    @property
    def acceptance_by_place(self) -> list[float]:
        """For each place in the draft the share of cycles that accept it."""
        return [count / self.cycles if self.cycles else 0.0 for count in self.accepted_at]

    def add(self, length: int, accepted: Sequence[int]) -> None:
        """Count an answer of ``length`` tokens; ``accepted[i]`` drafts are right when token i was emitted last."""
        self.answers += 1
        self.tokens += length
        place = 0
        while place < length - 1:
            count = min(accepted[place], self.depth)
            for draft in range(count):
                self.accepted_at[draft] += 1
            self.cycles += 1
            place += count + 1

    def merge(self, other: DraftScore) -> None:
        """Add the counts of ``other``, which must be of the same depth."""
        self.answers += other.answers
        self.tokens += other.tokens
        self.cycles += other.cycles
        self.accepted_at = [a + b for a, b in zip(self.accepted_at, other.accepted_at, strict=True)]


def decode_answers(
    model: ReferenceModel,
    encoder: ChatEncoder,
    *,
    per_category: int,
    seed: int,
    beyond: int = max(DEPTHS),
    categories: Iterable[str] = tuple(tasks.CATEGORIES),
) -> dict[str, list[Answer]]:
    """Let the target answer ``per_category`` held-out questions of each category."""
    decoder = ReferenceDecoder(model)
    return {
        category: [
            answer(decoder, encoder.prompt(task.question), beyond)
            for task in held_out_tasks(category, per_category, seed)
        ]
        for category in categories
    }


def answer(decoder: ReferenceDecoder, prompt: list[int], beyond: int) -> Answer:
    """Decode ``prompt`` greedily to its end and ``beyond`` tokens further."""
    emitted = decoder.generate(prompt, MAX_NEW_TOKENS, _AR).token_ids
    further = decoder.generate([*prompt, *emitted], beyond, _AR, ignore_eos=True).token_ids
    return Answer(prompt, emitted, further)


@torch.no_grad()
def accepted_drafts(head: Eagle3Head, model: ReferenceModel, one: Answer, depth: int) -> list[int]:
    """Return for every token of an answer how many drafts of a chain behind it the target accepts, at most ``depth``.

    A draft is compared only where all drafts before it are right, so the chain may read the answer's own tokens.
    """
    tokens = torch.tensor([[*one.prompt, *one.emitted, *one.beyond]])
    context, _ = read_target(model, tokens, torch.zeros(1, dtype=torch.int64), head.config.layers)
    count = len(one.emitted)
    starts = len(one.prompt) - 1 + torch.arange(count)
    right = []
    for step, hidden in enumerate(head.chains(model.encoder.embed_tokens, context, starts[None], depth)):
        wanted = tokens[0, (starts + step + 2).clamp(max=tokens.shape[1] - 1)]
        right.append(head.lm_head(hidden)[0].argmax(-1) == wanted)
    accepted: list[int] = torch.stack(right).long().cumprod(0).sum(0).tolist()
    return accepted


def evaluate_head(
    head: Eagle3Head,
    model: ReferenceModel,
    answers: Mapping[str, Sequence[Answer]],
    depths: Iterable[int] = DEPTHS,
) -> dict[int, dict[str, DraftScore]]:
    """Return scores[depth][category]; raises ValueError where an answer is not known far enough past its end."""
    scores = {depth: {category: DraftScore(depth) for category in answers} for depth in depths}
    longest = max(scores)
    for category, some in answers.items():
        for one in some:
            if len(one.beyond) < longest:
                raise ValueError(
                    f"answers: got {len(one.beyond)} tokens past the end, expected at least {longest}, the depth"
                )
            accepted = accepted_drafts(head, model, one, longest)
            for by_category in scores.values():
                by_category[category].add(len(one.emitted), accepted)
    return scores


def total(scores: Mapping[str, DraftScore]) -> DraftScore:
    """Return the sum over the categories."""
    first = next(iter(scores.values()))
    result = DraftScore(first.depth)
    for score in scores.values():
        result.merge(score)
    return result


def format_table(scores: Mapping[int, Mapping[str, DraftScore]]) -> str:
    """Render acceptance lengths as a Markdown table: a row a category and one for all, a column a depth."""
    depths = list(scores)
    heading = " | ".join(f"{depth} drafts" for depth in depths)
    lines = [f"| category | {heading} |", "| --- |" + " --- |" * len(depths)]
    for category in [*scores[depths[0]], "all"]:
        cells = [total(scores[depth]) if category == "all" else scores[depth][category] for depth in depths]
        lines.append(
            f"| {category} | " + " | ".join(f"{cell.acceptance_length:.2f}" for cell in cells) + " |"
        )
    return "\n".join(lines)
