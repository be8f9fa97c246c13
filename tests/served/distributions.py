"""Sampled answers of two modes, compared as distributions."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tests.served.endpoint import COMPLETIONS, Endpoint

DRAWS = int(os.environ.get("NEMOTRON_DIFFUSION_DRAWS", "1000"))
"""Answers drawn for each case and mode; the long lane takes 20000."""

NEW_TOKENS = 4
SMALL_BLOCK = {"block_size": NEW_TOKENS}
"""A seed from the prefill and three drafts: every border of acceptance lies within the answer."""

CHOICES = 100
SMALLEST_CELL = 20

CASES: dict[str, dict[str, Any]] = {
    "temperature 0.7": {"temperature": 0.7},
    "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "top_k 5": {"temperature": 1.0, "top_k": 5},
    "penalties": {
        "temperature": 1.0,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.7,
        "repetition_penalty": 1.2,
    },
    "min_p and logit_bias": {"temperature": 1.0, "min_p": 0.05, "logit_bias": {"300": 2.0, "310": -2.0}},
}

Answers = Counter[tuple[int, ...]]


def draw(endpoint: Endpoint, prompt: list[int], mode: str, sampling: dict[str, Any], draws: int) -> Answers:
    """Count the answers of `NEW_TOKENS` tokens to `draws` unseeded requests."""

    def some(number: int) -> list[tuple[int, ...]]:
        fields = {**sampling, "prompt": prompt, "max_tokens": NEW_TOKENS, "n": number}
        fields |= {"ignore_eos": True, "return_token_ids": True}
        choices = endpoint.choices(COMPLETIONS, {"decoding_mode": mode, **SMALL_BLOCK}, **fields)
        return [tuple(choice["token_ids"]) for choice in choices]

    sizes = [min(CHOICES, draws - begun) for begun in range(0, draws, CHOICES)]
    with ThreadPoolExecutor(2) as pool:
        return Counter(answer for answers in pool.map(some, sizes) for answer in answers)


def same_distribution(first: Answers, second: Answers) -> float:
    """The p-value of a G-test that two samples come from one distribution.

    Answers seen fewer than `SMALLEST_CELL` times in all are told apart by as many of their tokens as keeps the cells
    that large; what is left over makes one cell.
    """
    cells = _cells(first, second)
    table = torch.tensor(cells, dtype=torch.float64)
    assert len(table) > 5, f"{len(table)} cells tell little: {cells}"
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    statistic = 2.0 * torch.special.xlogy(table, table / expected).sum()
    degrees = torch.tensor((len(table) - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2.0))


def _cells(first: Answers, second: Answers) -> list[tuple[int, int]]:
    cells, left = [], (Counter(first), Counter(second))
    for length in range(NEW_TOKENS, 0, -1):
        begun = tuple(Counter[tuple[int, ...]]() for _ in left)
        for counter, answers in zip(begun, left, strict=True):
            for answer, count in answers.items():
                counter[answer[:length]] += count
        kept = {key for key in begun[0] | begun[1] if begun[0][key] + begun[1][key] >= SMALLEST_CELL}
        cells += [(begun[0][key], begun[1][key]) for key in sorted(kept)]
        left = tuple(  # type: ignore[assignment]
            Counter({answer: n for answer, n in answers.items() if answer[:length] not in kept})
            for answers in left
        )
    rest = (left[0].total(), left[1].total())
    return cells + [rest] * (sum(rest) > 0)
