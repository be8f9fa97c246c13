"""Requests at a fixed concurrency, decoded by the policy or by a fixed choice, in the time of a cost model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.policy.traces import BLOCKS, Scenario, Trace
from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.estimate import AcceptanceEstimate
from nemotron_diffusion_plugin.auto.policy import BlockPolicy, Candidate
from nemotron_diffusion_plugin.costs import ForwardCosts

FIXED = (1, *BLOCKS)
CONTEXT = 1000


@dataclass
class Running:
    """A request under way."""

    trace: Trace
    estimate: AcceptanceEstimate
    place: int = 0


@dataclass
class Outcome:
    """What a run gave, and how often each block length was chosen."""

    tokens: int = 0
    ms: float = 0.0
    chosen: dict[int, int] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Of the whole batch."""
        return 1e3 * self.tokens / self.ms


def step_ms(
    costs: ForwardCosts, blocks: Sequence[int], kv: Sequence[int], captured: frozenset[int] | None = None
) -> float:
    """Milliseconds of a draft forward of those with a block above 1 and of a verify forward of all."""
    drafting = [(block, tokens) for block, tokens in zip(blocks, kv, strict=True) if block > 1]
    everybody = list(zip(blocks, kv, strict=True))
    return sum(
        _forward_ms(costs, rows, bidirectional, captured)
        for rows, bidirectional in ((drafting, True), (everybody, False))
        if rows
    )


def _forward_ms(
    costs: ForwardCosts,
    requests: Sequence[tuple[int, int]],
    bidirectional: bool,
    captured: frozenset[int] | None,
) -> float:
    rows, kv = sum(block for block, _ in requests), sum(tokens for _, tokens in requests)
    widths = {block for block, _ in requests}
    is_replayed = captured is None or (len(widths) == 1 and widths <= captured)
    ms = costs.forward_ms(rows, 0, bidirectional)
    return max(ms, 0.0 if is_replayed else costs.eager_ms or 0.0) + kv * costs.ms_per_kv_token


def run(
    scenario: Scenario, concurrency: int, costs: ForwardCosts, fixed: int | None = None, seed: int = 0
) -> Outcome:
    """Decode until every place has given 400 tokens on average; `fixed` is a block length, None asks the policy."""
    policy = BlockPolicy(costs, BLOCKS, Engine(captured=scenario.captured))
    supply = scenario.traces(seed)
    running = [Running(next(supply), policy.estimate()) for _ in range(concurrency)]
    outcome = Outcome()
    while outcome.tokens < 400 * concurrency:
        kv = [CONTEXT + one.place for one in running]
        if fixed is None:
            candidates = [
                Candidate(one.estimate, BLOCKS[-1], tokens) for one, tokens in zip(running, kv, strict=True)
            ]
            blocks = policy.decide(candidates)
        else:
            blocks = [fixed] * concurrency
        outcome.ms += step_ms(costs, blocks, kv, scenario.captured)
        for number, (one, block) in enumerate(zip(running, blocks, strict=True)):
            outcome.chosen[block] = outcome.chosen.get(block, 0) + 1
            emitted = one.trace.emitted(one.place, block)
            if block > 1 and fixed is None:
                one.estimate.observe(block - 1, emitted - 1)
            one.place += emitted
            outcome.tokens += emitted
            if one.place >= one.trace.tokens:
                running[number] = Running(next(supply), policy.estimate())
    return outcome


@dataclass(frozen=True)
class Row:
    """Tokens per second at one concurrency: the policy's and those of each fixed block length."""

    concurrency: int
    auto: float
    fixed: dict[int, float]

    @property
    def best(self) -> int:
        """The best fixed block length."""
        return max(self.fixed, key=lambda block: self.fixed[block])

    @property
    def regret(self) -> float:
        """The share of the best fixed choice's speed that the policy loses; below 0 where it gains."""
        return 1.0 - self.auto / self.fixed[self.best]

    @property
    def over_ar(self) -> float:
        """The policy's speed in AR's."""
        return self.auto / self.fixed[1]


def compare(scenario: Scenario, concurrency: int, costs: ForwardCosts) -> Row:
    """Run the policy and every fixed choice on the same requests."""
    fixed = {block: run(scenario, concurrency, costs, block).tokens_per_second for block in FIXED}
    return Row(concurrency, run(scenario, concurrency, costs).tokens_per_second, fixed)
