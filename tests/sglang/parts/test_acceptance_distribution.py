"""Sampled self-speculation draws as AR does: drafts and their acceptance leave no trace in the distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.rules.accept import accept_longest_prefix
from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker import acceptance as module
from nemotron_diffusion_plugin.sglang.worker.acceptance import Acceptance
from nemotron_diffusion_plugin.sglang.worker.penalties import OutputCounts
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep
from tests.sglang.parts.sampled import batch_of, distribution, params
from tests.sglang.parts.verify_rows import causal_rows, emitted

pytestmark = pytest.mark.engine

BLOCK = 8
SEED_TOKEN = 1
SMALL = 5
DRAFTS = (1, 3)
MANY = 20_000
WARM = {"temperature": 0.8, "top_p": 0.92, "min_p": 0.08}
PENALTIES = {"presence_penalty": 0.3, "frequency_penalty": 0.6, "repetition_penalty": 1.3}
SAMPLING: dict[str, dict[str, float]] = {
    "temperature 0.7": {"temperature": 0.7},
    "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "top_k 3": {"temperature": 1.0, "top_k": 3},
    "penalties": {"temperature": 1.0, **PENALTIES},
    "all": WARM,
}
CRITICAL = 6.0
"""A G statistic over its degrees of freedom (at least 2) that is exceeded less than once in 400 runs of 2 degrees,
and once in 50,000 of 5; draws here are the same in every run."""


def logits() -> torch.Tensor:
    """One row behind the seed and one behind each draft; of the drafts the first is likely, the second is not."""
    return torch.tensor(
        [[0.3, 1.4, -0.2, 0.9, -3.5], [1.2, 0.4, 0.8, 0.5, -0.3], [-0.5, 0.7, 1.0, -4.0, 0.6]]
    )


def penalised(row: list[float], before: tuple[int, ...], sampling: dict[str, float]) -> list[float]:
    """One row of logits behind the tokens emitted before it, by the rule of the penalties, token by token."""
    result = []
    for token, value in enumerate(row):
        if token in before:
            value -= sampling.get("frequency_penalty", 0.0) * before.count(token)
            value -= sampling.get("presence_penalty", 0.0)
            repetition = sampling.get("repetition_penalty", 1.0)
            value = value * repetition if value < 0 else value / repetition
        result.append(value)
    return result


def expected(width: int, sampling: dict[str, float]) -> dict[tuple[int, ...], float]:
    """The probability that AR goes on with each sequence at which a chain of this width can end."""
    rows = [
        distribution(penalised(row, (SEED_TOKEN, *DRAFTS[:place]), sampling), params(**sampling))
        for place, row in enumerate(logits().tolist())
    ]
    result: dict[tuple[int, ...], float] = {}
    likely = 1.0
    for place in range(width):
        for token, probability in enumerate(rows[place]):
            if place == width - 1 or token != DRAFTS[place]:
                result[(*DRAFTS[:place], token)] = likely * probability
        if place < width - 1:
            likely *= rows[place][DRAFTS[place]]
    assert sum(result.values()) == pytest.approx(1)
    return result


def draw(
    width: int, one_seed: bool, sampling: dict[str, float], by_seed: bool = False
) -> dict[tuple[int, ...], int]:
    """Many requests with noise of their own, or many positions of one seed; `by_seed` by the rule for given seeds."""
    table = SlotTable(ServerSettings.read(BLOCK, None), MANY, 0, torch.device("cpu"))
    table.mode[:] = (DecodingMode.AR if width == 1 else DecodingMode.SELF_SPECULATION).code
    table.temperature[:] = sampling["temperature"]
    table.by_seed[:] = by_seed
    slots = np.arange(MANY)
    seeds = torch.randint(2**62, (MANY,), generator=torch.Generator().manual_seed(width))
    seeds = seeds[:1].expand(MANY) if one_seed else seeds
    # Positions far enough apart that no two draws share their noise.
    starts = torch.arange(MANY) * 5 if one_seed else torch.full((MANY,), 10)
    index = torch.from_numpy(slots)
    blocks = causal_rows(index, starts, np.full(MANY, width))
    chain = torch.tensor([SEED_TOKEN, *DRAFTS[: width - 1]]).repeat(MANY, 1)
    step = DecodeStep(batch_of([params(**sampling)] * MANY), slots, index, starts, chain[:, 0])
    counts = OutputCounts(MANY, SMALL, torch.device("cpu"))
    for slot in range(MANY):
        counts.take(slot, params(**sampling), [SEED_TOKEN])
    acceptance = Acceptance(table, seeds, counts, TorchOperators())
    outcome = acceptance.decide(step, slots, blocks, chain, logits()[:width].repeat(MANY, 1), None)
    drawn: dict[tuple[int, ...], int] = {}
    for tokens in emitted(outcome):
        drawn[tuple(tokens)] = drawn.get(tuple(tokens), 0) + 1
    return drawn


@pytest.mark.parametrize("by_seed", [False, True], ids=["by chance", "by seed"])
@pytest.mark.parametrize("one_seed", [False, True], ids=["many seeds", "one seed"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_as_ar(width: int, one_seed: bool, by_seed: bool) -> None:
    assert g_statistic(draw(width, one_seed, WARM, by_seed), expected(width, WARM)) < CRITICAL


@pytest.mark.parametrize("by_seed", [False, True], ids=["by chance", "by seed"])
@pytest.mark.parametrize("name", SAMPLING)
def test_as_ar_however_it_samples(name: str, by_seed: bool) -> None:
    sampling = SAMPLING[name]
    assert g_statistic(draw(3, False, sampling, by_seed), expected(3, sampling)) < CRITICAL


def test_by_seed_a_draft_is_accepted_as_often_as_by_chance() -> None:
    """With its probability, that is."""
    chances = expected(3, WARM)
    for by_seed in (False, True):
        drawn = draw(3, False, WARM, by_seed)
        first = sum(count for tokens, count in drawn.items() if tokens[0] == DRAFTS[0]) / MANY
        likely = sum(chance for tokens, chance in chances.items() if tokens[0] == DRAFTS[0])
        assert first == pytest.approx(likely, abs=0.01)


def test_the_statistic_tells_settings_apart() -> None:
    """Penalties left out, or another temperature, are noticed at this number of draws."""
    plain, warm = {"temperature": 1.0}, SAMPLING["temperature 0.7"]
    assert g_statistic(draw(3, False, plain), expected(3, SAMPLING["penalties"])) > 3 * CRITICAL
    assert g_statistic(draw(3, False, warm), expected(3, plain)) > 3 * CRITICAL


@pytest.mark.parametrize("wrong", ["bonus from all", "accept all", "greedy", "accept by another row"])
def test_a_wrong_acceptance_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.accept_sampled
    if wrong == "bonus from all":
        monkeypatch.setattr(module, "correction_weights", lambda row, rejected: row)
    else:
        monkeypatch.setattr(
            module,
            "accept_sampled",
            {
                "accept all": lambda drafts, spread, count, uniform: count,
                "greedy": lambda drafts, spread, count, uniform: accept_longest_prefix(
                    drafts, spread.argmax(dim=2), count
                ),
                "accept by another row": lambda drafts, spread, count, uniform: right(
                    drafts, spread.roll(1, dims=1), count, uniform
                ),
            }[wrong],
        )
    assert g_statistic(draw(3, False, WARM), expected(3, WARM)) > 3 * CRITICAL


def g_statistic(drawn: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> float:
    """The log-likelihood ratio of counts against probabilities, over its degrees of freedom."""
    total, possible = sum(drawn.values()), {key for key, value in expected.items() if value > 0}
    if drawn.keys() - possible:
        return float("inf")
    ratio = sum(count * np.log(count / (total * expected[key])) for key, count in drawn.items())
    return 2 * float(ratio) / (len(possible) - 1)
