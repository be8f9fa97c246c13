"""How many drafts are accepted, by how they are chosen: `python -m benchmarks.draft_policies [CHECKPOINT]`.

Two comparisons with the reference model, both of drafts accepted per cycle over the same prompts:

- sampled answers: the most likely token as draft, accepted with p(draft), against drafts sampled from the drafter's own
  distribution q at the answer's temperature, accepted with min(1, p/q);
- greedy JSON answers: drafts as they come, against drafts that the grammar masks one after another.

Prints a Markdown table of each. The emitted distribution is that of AR in all cases, so only the speed differs.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import within
from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import KeyValueCache
from nemotron_diffusion_plugin.rules.constrain import constrain, likeliest_allowed
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder

RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{2,8}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ANY_RECORD = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}, "minProperties": 2}
BLOCK = 32
NEW_TOKENS = 80
EOS = 11

Choose = Callable[[list[int], torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""From emitted tokens and draft logits `[K, V]` the drafts int64 `[K]` and, if drawn, their distributions `[K, V]`."""

Edit = Callable[[list[int], torch.Tensor, torch.Tensor], None]
"""Masks causal logits `[K + 1, V]` in place behind the emitted tokens and each of the drafts `[K]`."""


@dataclass
class Counts:
    """Cycles, and the drafts accepted in them."""

    cycles: int = 0
    accepted: int = 0
    seconds_masking: list[float] = field(default_factory=list)

    @property
    def length(self) -> float:
        """Tokens a cycle emits, the bonus included."""
        return 1.0 + self.accepted / max(1, self.cycles)


class Speculation:
    """Self-speculation of one request at a time, with the choice of drafts and the causal logits exposed."""

    def __init__(self, decoder: ReferenceDecoder, random_numbers: torch.Generator) -> None:
        self.decoder = decoder
        self.random_numbers = random_numbers
        self.cache = KeyValueCache()

    def forward(self, tokens: Sequence[int], causal: bool) -> tuple[torch.Tensor, Any]:
        """Logits float32 `[n, V]` behind the cache, and the new keys and values."""
        start, count = self.cache.length, len(tokens)
        visible = masks.causal(count, start) if causal else masks.bidirectional(count, start)
        lora = None if causal else self.decoder.lora
        ids, positions = torch.tensor([list(tokens)]), torch.arange(start, start + count)
        logits, keys_values = self.decoder.model(ids, positions, visible, self.cache, lora)
        return logits[0].float(), keys_values

    def run(
        self, prompt: Sequence[int], temperature: float, choose: Choose, edit: Edit | None, counts: Counts
    ) -> list[int]:
        """Answer a prompt and count; greedy at temperature 0."""
        self.cache = KeyValueCache()
        logits, keys_values = self.forward(prompt, causal=True)
        self.cache.append(keys_values)
        row, none = logits[-1:].clone(), torch.empty(0, dtype=torch.int64)
        if edit is not None:
            edit([], none, row)
        emitted = [self._draw(self._probabilities(row, temperature)[0])]
        mask = self.decoder.model.config.mask_token_id
        while len(emitted) < NEW_TOKENS and emitted[-1] != EOS:
            draft_logits, _ = self.forward([emitted[-1], *[mask] * (BLOCK - 1)], causal=False)
            draft_logits[:, mask] = -torch.inf
            drafts, drawn_from = choose(emitted, draft_logits[1:])
            logits, keys_values = self.forward([emitted[-1], *drafts.tolist()], causal=True)
            if edit is not None:
                edit(emitted, drafts, logits)
            p = self._probabilities(logits, temperature)
            new = self._accept(drafts, p, drawn_from)
            if EOS in new:
                new = new[: new.index(EOS) + 1]
            counts.cycles += 1
            counts.accepted += len(new) - 1
            self.cache.append(keys_values, count=len(new))
            emitted += new
        return emitted

    def _accept(self, drafts: torch.Tensor, p: torch.Tensor, drawn_from: torch.Tensor | None) -> list[int]:
        for place, draft in enumerate(drafts.tolist()):
            one_hot = torch.zeros_like(p[place]).index_fill_(0, torch.tensor(draft), 1.0)
            q = one_hot if drawn_from is None else drawn_from[place]
            if torch.rand((), generator=self.random_numbers) >= p[place, draft] / q[draft]:
                left = (p[place] - q).clamp(min=0)
                last = self._draw(left if left.sum() > 0 else p[place])
                return [*drafts[:place].tolist(), last]
        return [*drafts.tolist(), self._draw(p[len(drafts)])]

    def _draw(self, weights: torch.Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=self.random_numbers))

    @staticmethod
    def _probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        if temperature == 0:
            return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
        return (logits / temperature).softmax(1)


def argmax_drafts(emitted: list[int], logits: torch.Tensor) -> tuple[torch.Tensor, None]:
    return logits.argmax(1), None


def sampled_drafts(temperature: float, random_numbers: torch.Generator) -> Choose:
    def choose(emitted: list[int], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = (logits / temperature).softmax(1)
        return torch.multinomial(q, 1, generator=random_numbers)[:, 0], q

    return choose


class JsonGrammar:
    """xgrammar over one answer: what a schema allows behind emitted tokens and drafts."""

    def __init__(self, compiled: Any, config: Any, most: int, counts: Counts) -> None:
        """At `most` so many drafts of a block are replaced."""
        import xgrammar

        self._xgrammar = xgrammar
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bitmask = xgrammar.allocate_token_bitmask(1, config.vocab_size)
        self._mask_token_id = config.mask_token_id
        self._most = most
        self._taken = self._advanced = 0
        self.counts = counts

    @staticmethod
    def compile(folder: Path, schema: str, vocab_size: int) -> Any:
        """Compile a schema for a checkpoint's tokenizer."""
        import xgrammar
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size, stop_token_ids=[EOS])
        return xgrammar.GrammarCompiler(info).compile_json_schema(
            schema, any_whitespace=False, separators=(", ", ": ")
        )

    def edit(self, emitted: list[int], drafts: torch.Tensor, logits: torch.Tensor) -> None:
        """Mask causal rows: the first behind the emitted tokens, each next one behind one draft more."""
        self._take(emitted)
        advanced = 0
        for row in range(len(logits)):
            if self._matcher.is_terminated():
                break
            self._matcher.fill_next_token_bitmask(self._bitmask)
            self._xgrammar.apply_token_bitmask_inplace(logits[row : row + 1], self._bitmask)
            if row == len(drafts) or not self._matcher.accept_token(int(drafts[row])):
                break
            advanced += 1
        self._matcher.rollback(advanced)

    def choose(self, emitted: list[int], logits: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Choose drafts int64 `[K]` from logits `[K, V]`, each among those allowed behind the drafts before it."""
        self._take(emitted)
        drafts = logits.argmax(1).tolist()
        begun = time.perf_counter()
        self._advanced = 0

        def likeliest(places: list[tuple[int, int]], masks: np.ndarray) -> list[int]:
            return likeliest_allowed(logits[[place for _, place in places]], masks, self._mask_token_id)

        constrain([drafts], likeliest, [self], self._most)
        self._matcher.rollback(self._advanced)
        self.counts.seconds_masking.append(time.perf_counter() - begun)
        return torch.tensor(drafts, dtype=torch.int64), None

    def follow(self, tokens: Sequence[int]) -> int:
        """See `decoding.constrain.DraftGrammar`."""
        for count, token in enumerate(tokens):
            if self._matcher.is_terminated() or not self._matcher.accept_token(token):
                return count
            self._advanced += 1
        return len(tokens)

    def allowed(self) -> np.ndarray | None:
        """See `decoding.constrain.DraftGrammar`."""
        if self._matcher.is_terminated():
            return None
        self._matcher.fill_next_token_bitmask(self._bitmask)
        return self._bitmask[0].numpy()

    def _take(self, emitted: list[int]) -> None:
        for token in emitted[self._taken :]:
            assert self._matcher.accept_token(token), "the answer left the grammar"
        self._taken = len(emitted)


def compare_sampled(decoder: ReferenceDecoder, prompts: Sequence[Sequence[int]]) -> str:
    """A Markdown table: accepted tokens per cycle at temperatures, with both kinds of drafts."""
    lines = ["| temperature | drafts argmax | drafts sampled |", "| --- | --- | --- |"]
    for temperature in (0.7, 1.0):
        lengths = []
        for sampled in (False, True):
            numbers = torch.Generator().manual_seed(1)
            choose = sampled_drafts(temperature, numbers) if sampled else argmax_drafts
            counts, speculation = Counts(), Speculation(decoder, numbers)
            for prompt in prompts:
                speculation.run(prompt, temperature, choose, None, counts)
            lengths.append(f"{counts.length:.2f} ({counts.cycles} cycles)")
        lines.append(f"| {temperature} | {lengths[0]} | {lengths[1]} |")
    return "\n".join(lines)


def compare_grammar(
    decoder: ReferenceDecoder, prompts: Sequence[Sequence[int]], folder: Path, schema: str
) -> str:
    """A Markdown table: accepted tokens per cycle of JSON answers, by how many drafts the grammar may replace."""
    lines = [
        "| drafts of a block replaced | acceptance length | host ms to choose them |",
        "| --- | --- | --- |",
    ]
    config = decoder.model.config
    compiled = JsonGrammar.compile(folder, schema, config.vocab_size)
    for most in (0, 1, 2, 4, 8, 16, BLOCK - 1):
        counts, numbers = Counts(), torch.Generator().manual_seed(1)
        for prompt in prompts:
            grammar = JsonGrammar(compiled, config, most, counts)
            choose: Choose = grammar.choose if most else argmax_drafts
            Speculation(decoder, numbers).run(prompt, 0.0, choose, grammar.edit, counts)
        spent = counts.seconds_masking
        cost = f"{1000 * sum(spent) / len(spent):.2f}" if spent else "–"
        name = f"at most {most}" if most else "none"
        lines.append(f"| {name} | {counts.length:.2f} ({counts.cycles} cycles) | {cost} |")
    return "\n".join(lines)


@errors_in_one_line()
@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, default=BUNDLED_CHECKPOINT)
    parser.add_argument("--prompts", type=within(int, 1, 10_000), default=40)
    given = parser.parse_args(arguments)
    decoder = ReferenceDecoder.from_checkpoint(given.checkpoint)
    encoder = ChatEncoder(given.checkpoint)
    rng = random.Random(0)
    questions = [tasks.draw(rng, held_out=True).question for _ in range(given.prompts)]
    prompts = [encoder.prompt(question) for question in questions]
    free = [prompt[-rng.randint(2, 6) :] for prompt in prompts]
    records = [tasks.draw(rng, held_out=True, category="json").question for _ in range(given.prompts)]
    wanted = [encoder.prompt(question) for question in records]
    folder = given.checkpoint
    print("Sampled answers to held-out questions\n\n" + compare_sampled(decoder, prompts))
    print("\nSampled text from the last few tokens of prompts\n\n" + compare_sampled(decoder, free))
    print("\nJSON asked for\n\n" + compare_grammar(decoder, wanted, folder, json.dumps(ANY_RECORD)))
    print(
        "\nJSON forced on other questions\n\n" + compare_grammar(decoder, prompts, folder, json.dumps(RECORD))
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
