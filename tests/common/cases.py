"""Requests and what the reference decoder answers to them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.result import Generation
from nemotron_diffusion_plugin.settings import ServerSettings

BLOCK = 32
MODES = ("ar", "diffusion", "self_speculation")
DIFFUSION_OPTIONS: tuple[dict[str, Any], ...] = (
    {"threshold": 0.9},
    {"threshold": 0.3, "block_size": 8},
    {"threshold": 0.6, "denoising_steps": 4},
    {"threshold": 1.0, "block_size": 5},
    {"commit_rule": "schedule", "denoising_steps": 3, "block_size": 16},
    {"commit_rule": "threshold_bound", "threshold": 0.7},
    {"commit_rule": "cumulative_error", "threshold": 0.5, "block_size": 24},
    {"commit_rule": "fixed", "tokens_per_step": 6},
    {"denoising_steps": 1},
    {"block_size": 2},
    {"block_size": 1},
)
SPECULATION_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"draft_lora": False},
    {"block_size": 8},
    {"block_size": 2, "draft_lora": False},
    {"block_size": 1},
)


@dataclass(frozen=True)
class Case:
    """One greedy request."""

    prompt: list[int]
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"prompt of {len(self.prompt)}, {self.max_tokens} tokens, {self.options}"


class Reference:
    """The reference decoder of a checkpoint, given the limits and defaults of a server; answers are kept."""

    def __init__(
        self, folder: Path, max_model_len: int, server_defaults: dict[str, Any] | None = None
    ) -> None:
        self.decoder = _decoder(folder)
        self.config = self.decoder.model.config
        self.max_model_len = max_model_len
        self.defaults = ServerSettings.read(self.config.block_size, server_defaults).defaults
        self._answers: dict[str, Generation] = {}

    def options(self, case: Case) -> DecodingOptions:
        return DecodingOptions.parse(case.options, self.defaults, self.config.block_size)

    def mode(self, case: Case) -> str:
        return self.options(case).decoding_mode.value

    def generate(self, case: Case, temperature: float = 0.0, seed: int = 0) -> Generation:
        """What the server must answer, with the forwards it takes."""
        key = repr((case, temperature, seed))
        if key not in self._answers:
            eos = self.config.eos_token_id
            stops = {*case.stop_token_ids, *(() if case.ignore_eos else (eos,))}
            self._answers[key] = self.decoder.generate(
                case.prompt,
                case.max_tokens,
                self.options(case),
                stop_token_ids=stops,
                min_tokens=case.min_tokens,
                max_model_len=self.max_model_len,
                temperature=temperature,
                seed=seed,
            )
        return self._answers[key]

    @torch.no_grad()
    def logprobs(self, prompt: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """The causal log-probability of each token after the prompt and the tokens before it."""
        tokens = torch.tensor([[*prompt, *token_ids]])
        count = tokens.shape[1]
        logits, _ = self.decoder.model(tokens, torch.arange(count), masks.causal(count))
        rows = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return rows.gather(1, tokens[0, len(prompt) :, None])[:, 0].tolist()

    def chosen_with(self, case: Case) -> list[float]:
        """The log-probability of each token of an answer under the logits that chose it."""
        return [math.log(confidence) for confidence in self.generate(case).confidences]

    def totals(self, cases: Sequence[Case], mode: str) -> dict[str, int]:
        """Forwards of the cases of one mode by kind, the prefill's included."""
        answers = [self.generate(case) for case in cases if self.mode(case) == mode]
        return {
            "prefill": len(answers),
            "draft": sum(answer.draft_forwards for answer in answers),
            "denoise": sum(answer.denoise_forwards for answer in answers),
            "verify": sum(answer.verify_forwards for answer in answers),
        }


@cache
def _decoder(folder: Path) -> ReferenceDecoder:
    return ReferenceDecoder.from_checkpoint(folder)


def prompt(rng: random.Random, length: int, vocab_size: int) -> list[int]:
    """Random ordinary tokens; the first 101 ids of the vocabulary are special."""
    return [rng.randrange(101, vocab_size) for _ in range(length)]


def alone_cases(vocab_size: int, seed: int) -> list[Case]:
    """Every mode with every option set, from the shortest prompt to the longest and to 200 new tokens."""
    rng = random.Random(seed)
    lengths, counts = (1, 2, 31, 32, 33, 64, 130, 300), (1, 2, 20, 33, 70)
    drawn = [{"decoding_mode": "diffusion", **options} for options in DIFFUSION_OPTIONS]
    drawn += [{"decoding_mode": "self_speculation", **options} for options in SPECULATION_OPTIONS]
    drawn += [{"decoding_mode": "ar"}] * 2
    cases = [
        Case(prompt(rng, rng.choice(lengths), vocab_size), rng.choice(counts), options, rng.random() < 0.5)
        for options in drawn
    ]
    long = prompt(rng, 300, vocab_size)
    return cases + [Case(long, 200, {"decoding_mode": mode}, ignore_eos=True) for mode in MODES]


def mixed_cases(vocab_size: int, seed: int, count: int = 16, most_tokens: int = 200) -> list[Case]:
    """Requests of all modes to run at once; some share a prefix and some are alike but for their mode."""
    rng = random.Random(seed)
    shared = prompt(rng, 200, vocab_size)
    cases = []
    for number in range(count):
        mode = MODES[number % 3]
        options = {"ar": ({},), "diffusion": DIFFUSION_OPTIONS, "self_speculation": SPECULATION_OPTIONS}[mode]
        if number % 4 == 0:
            tokens = shared[: rng.choice((64, 100, 200))] + prompt(rng, 3, vocab_size)
        else:
            tokens = prompt(rng, rng.choice((1, 5, 33, 64, 130, 300)), vocab_size)
        new = min(most_tokens, rng.choice((1, 7, 40, 100, 200)))
        cases.append(Case(tokens, new, {"decoding_mode": mode, **rng.choice(options)}, rng.random() < 0.7))
    return cases


def in_every_mode(case: Case) -> list[Case]:
    return [replace(case, options={**case.options, "decoding_mode": mode}) for mode in MODES]
