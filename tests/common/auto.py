"""Requests in auto, and a server whose costs make company visible in its choices."""

from __future__ import annotations

import random
from typing import Any

from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from tests.common.cases import Case, prompt
from tests.common.checkpoints import TRAINED

ON_A_GPU: dict[str, Any] = {"forward_costs": {"causal": [[1, 4.4], [206, 4.4], [412, 8.8]]}}
"""Settings by which auto chooses as for the 8B model on an H200, whatever forwards take on this machine."""

AR_IN_COMPANY: dict[str, Any] = {
    "auto_block_sizes": [32],
    "forward_costs": {"causal": [[1, 1.0], [32, 1.0], [33, 100.0], [64, 200.0]], "ms_per_mask": 1.0},
}
"""Settings by which a block of 32 is free alone, and a hundred times as dear as AR beside anybody.

A grammar makes it dear as well: a mask takes as long as a forward.
"""


def predictable(count: int, new: int = 120) -> list[Case]:
    """Requests in auto, by default, of which the trained model accepts nearly every draft."""
    rng, encoder = random.Random(3), ChatEncoder(TRAINED)
    drawn = [tasks.draw(rng, held_out=True, category="arithmetic") for _ in range(count)]
    return [Case(encoder.prompt(task.question), new) for task in drawn]


def mixed(vocab_size: int, count: int = 12) -> list[Case]:
    """Requests in auto among those of every other mode."""
    rng = random.Random(11)
    auto: tuple[dict[str, Any], ...] = ({}, {"block_size": 8}, {"draft_lora": False}, {"block_size": 1})
    modes = [{"decoding_mode": mode} for mode in ("ar", "diffusion", "self_speculation")]
    options = [auto[number // 2 % 4] if number % 2 else modes[number // 2 % 3] for number in range(count)]
    return [
        Case(
            prompt(rng, rng.choice((1, 33, 130)), vocab_size), rng.choice((7, 40, 100)), one, ignore_eos=True
        )
        for one in options
    ]


def company(vocab_size: int) -> list[Case]:
    """Two AR requests that run for a while."""
    rng = random.Random(12)
    return [Case(prompt(rng, 5, vocab_size), 480, {"decoding_mode": "ar"}, ignore_eos=True) for _ in range(2)]
