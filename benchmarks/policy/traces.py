"""What requests would accept: recorded from the bundled model, or drawn."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parent / "acceptance.json"
OTHER_PATH = PATH.with_name("other-acceptance.json")
"""Answers to questions that the policy was not tried on while it was made."""
BLOCKS = (8, 16, 32)
DRAWN_TOKENS = 256
PUBLISHED_AL = 6.82


@dataclass(frozen=True)
class Trace:
    """One request: for each block length, how many drafts are accepted where its token i is the seed."""

    accepted: dict[int, list[int]]

    @property
    def tokens(self) -> int:
        """Tokens behind the first."""
        return len(self.accepted[BLOCKS[0]])

    def emitted(self, place: int, block: int) -> int:
        """Tokens that a cycle with a block of this length gives behind the seed at `place`."""
        if block == 1:
            return 1
        drafts = self.accepted[block][place] if block in self.accepted else 0
        return min(1 + drafts, self.tokens - place)


Traces = Callable[[int], Iterator[Trace]]
"""An endless supply of requests, from a seed."""


def recorded(path: Path = PATH) -> dict[str, list[Trace]]:
    """A recording by category."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        category: [Trace({int(block): counts for block, counts in one.items()}) for one in answers]
        for category, answers in content.items()
    }


def of_the_tiny_model(path: Path) -> Traces:
    """Recorded answers of all categories, in random order."""

    def supply(seed: int) -> Iterator[Trace]:
        rng, every = random.Random(seed), [one for answers in recorded(path).values() for one in answers]
        while True:
            yield rng.choice(every)

    return supply


def drawn(*lengths: float) -> Traces:
    """Requests of `DRAWN_TOKENS` tokens whose drafts are accepted by chance.

    Each request has one of the mean acceptance lengths `lengths`, that of endless blocks.
    """

    def supply(seed: int) -> Iterator[Trace]:
        rng = random.Random(seed)
        while True:
            chance = 1.0 - 1.0 / rng.choice(lengths)
            runs = [_run(rng, chance) for _ in range(DRAWN_TOKENS)]
            yield Trace({block: [min(run, block - 1) for run in runs] for block in BLOCKS})

    return supply


def _run(rng: random.Random, chance: float) -> int:
    count = 0
    while count < BLOCKS[-1] - 1 and rng.random() < chance:
        count += 1
    return count


@dataclass(frozen=True)
class Scenario:
    """Requests, and the machine they meet: with `captured`, only forwards of these widths replay CUDA graphs."""

    traces: Traces
    captured: frozenset[int] | None = None


SCENARIOS = {
    "the tiny model's answers (recorded)": Scenario(of_the_tiny_model(PATH)),
    "the tiny model's answers to other questions (recorded)": Scenario(of_the_tiny_model(OTHER_PATH)),
    "acceptance length 6.82 (drawn)": Scenario(drawn(PUBLISHED_AL)),
    "acceptance length 6.82, CUDA graphs for blocks of 32 and AR only (drawn)": Scenario(
        drawn(PUBLISHED_AL), frozenset({1, 32})
    ),
    "acceptance length 2, 4, 8 or 14 (drawn)": Scenario(drawn(2.0, 4.0, 8.0, 14.0)),
    "nothing is accepted (drawn)": Scenario(drawn(1.0)),
}
