"""Requests whose end lies where blocks and cycles make it difficult."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

from tests.common.cases import BLOCK, Case, Reference, prompt


def stop_in_mid_block(reference: Reference, mode: str, ignore_eos: bool = True) -> Case:
    """A case whose stop token is first emitted neither first nor last in a block or cycle.

    Without `ignore_eos`, for an engine that ignores other stop tokens with EOS, it comes before any EOS.
    """
    for seed in range(200):
        tokens = prompt(random.Random(seed), 20, reference.config.vocab_size)
        case = Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)
        answer = reference.generate(case)
        ends = [1]
        for step in answer.accepted or [BLOCK - 1] * answer.verify_forwards:
            ends.append(ends[-1] + step + 1)
        for start, end in itertools.pairwise(ends):
            for place in range(start, min(end - 2, len(answer.token_ids) - 1)):
                token = answer.token_ids[place]
                if not ignore_eos and reference.config.eos_token_id in answer.token_ids[:place]:
                    continue
                if token not in answer.token_ids[:place]:
                    return replace(case, stop_token_ids=(token,), ignore_eos=ignore_eos)
    raise AssertionError("no such case within 200 prompts")


def across_a_border(
    reference: Reference, mode: str, detokenize: Callable[[list[int]], str]
) -> tuple[Case, str, str]:
    """A case, the text before a stop string and that string, which starts in one step's tokens and ends in the next's.

    For self-speculation the border lies between accepted drafts and the token that replaced a rejected one.
    """
    for seed in range(200):
        tokens = prompt(random.Random(seed), 24, reference.config.vocab_size)
        case = Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)
        answer = reference.generate(case)
        if mode == "self_speculation":
            borders, place = [], 1
            for accepted in answer.accepted:
                place += accepted
                borders += [place] * (0 < accepted < BLOCK - 1)
                place += 1
        else:
            borders = [1 + BLOCK, 1 + 2 * BLOCK] if mode == "diffusion" else [7, 8, 9]
        for border in borders:
            if border >= len(answer.token_ids) - 1:
                continue
            before = detokenize(answer.token_ids[:border])
            longer = detokenize(answer.token_ids[: border + 1])
            stop = longer[len(before) - 1 : len(before) + 1]
            text = detokenize(answer.token_ids)
            if len(longer) > len(before) > 1 and stop.isprintable() and text.find(stop) == len(before) - 1:
                return case, text[: len(before) - 1], stop
    raise AssertionError("no such case within 200 prompts")
