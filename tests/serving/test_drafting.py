"""Drafting and denoising over a toy forward: who shares a forward, when it stops, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.core import BlockPhase
from nemotron_diffusion_plugin.rules import noise
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose
from nemotron_diffusion_plugin.rules.pick import pick
from nemotron_diffusion_plugin.serving.drafting import Drafter, DraftStep
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.picking import BlockPicker
from nemotron_diffusion_plugin.settings import KERNELS, TORCH
from tests.common.automaton import Automaton
from tests.serving.toy import BLOCK, DIFFUSION, MASK, SLOTS, VOCAB, ToyForward, make_table, take

LAST = 60
ONE_A_STEP = {**DIFFUSION, "commit_rule": "fixed", "tokens_per_step": 1}
STEPS = BLOCK - 1  # of ONE_A_STEP
SEEDS = torch.arange(SLOTS) + 100


class Bench:
    """A drafter over a toy forward, and the requests it drafts for."""

    def __init__(self, max_tokens: int = 1 << 20, kernels: str = TORCH) -> None:
        self.table, self.forward = make_table(), ToyForward(max_tokens)
        operators = make_operators(kernels, torch.device("cpu"))
        picker = BlockPicker(self.table, self.forward, SEEDS.__getitem__, operators)
        self.drafter = Drafter(self.table, self.forward, picker, operators)

    def begin(self, slot: int, options: dict[str, object], start: int = 10, temperature: float = 0.0) -> None:
        """A diffusion request whose seed is token `slot`."""
        take(self.table, slot, options, prompt_len=start, temperature=temperature)
        self.table.begin_blocks(np.array([slot]), np.array([start]), torch.tensor([slot]), LAST + 2)

    def lay_out(self, slot: int, options: dict[str, object], start: int = 10) -> None:
        """A self-speculating request whose seed is token `slot`."""
        take(self.table, slot, options)
        index = torch.tensor([slot])
        self.table.begin_drafts(np.array([slot]), index, torch.tensor([start]), np.array([start]))

    def slots_by_pass(self) -> list[list[int]]:
        return [each.slots for each in self.forward.passes]


def alone(
    forward: ToyForward, slot: int, options: dict[str, object], start: int = 10, temperature: float = 0.0
) -> tuple[list[int], int]:
    """Denoise one block by `rules`; its tokens and the denoise steps it took."""
    chosen = make_table().settings.options(options)
    size = min(chosen.block_size, LAST + 1 - start)
    state = BlockState.start(torch.tensor([slot]), torch.tensor([size]), BLOCK, MASK)
    positions = torch.arange(start, start + size)
    steps = 0
    while not state.finished.all():
        seeds, step = SEEDS[slot].expand(size), torch.full((size,), steps + 1)
        uniform = noise.uniform(seeds, positions, step, VOCAB)
        ids, sure = pick(
            forward.of_block(state.tokens[0, :size], start),
            MASK,
            torch.full((size,), temperature),
            lambda rows, uniform=uniform: uniform[rows],
        )
        picked, confidence = torch.zeros(1, BLOCK, dtype=torch.int64), torch.zeros(1, BLOCK)
        picked[0, :size], confidence[0, :size] = ids, sure
        selected = choose(confidence, state.masked, state.step, state.length - 1, CommitRules.of([chosen]))
        state.commit(picked, selected)
        steps += 1
    return state.tokens[0].tolist(), steps


REQUESTS: list[dict[str, object]] = [
    {**DIFFUSION, "threshold": 0.2},
    {**DIFFUSION, "commit_rule": "schedule", "denoising_steps": 3},
    {**DIFFUSION, "commit_rule": "threshold_bound", "threshold": 0.6, "block_size": 5},
    {**DIFFUSION, "commit_rule": "cumulative_error", "threshold": 0.1},
    {**DIFFUSION, "commit_rule": "fixed", "tokens_per_step": 2, "block_size": 7},
    ONE_A_STEP,
]
STARTS = [10, 15, 20, LAST - 3, 30, 35]
TEMPERATURES = [0.0, 0.7, 0.0, 1.0, 0.3, 0.0]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("max_tokens", [1 << 20, 2 * BLOCK, 1])
def test_a_batch_equals_the_rules_one_by_one(max_tokens: int, kernels: str) -> None:
    """In one forward, in forwards for a few blocks each, or for one block each."""
    bench = Bench(max_tokens, kernels)
    requests = list(zip(range(SLOTS), REQUESTS, STARTS, TEMPERATURES, strict=True))
    for request in requests:
        bench.begin(*request)
    result = bench.drafter.run()
    assert sorted(result.finished) == list(range(SLOTS))
    assert result.drafts is None
    for slot, *rest in requests:
        tokens, steps = alone(bench.forward, slot, *rest)
        assert bench.table.blocks.tokens[slot].tolist() == tokens
        assert bench.table.steps[slot] == steps
    assert (bench.table.phase == BlockPhase.PLANNED).all()
    assert bench.table.planned.all()
    assert len(set(bench.table.steps.tolist())) > 2, "the requests should end at different times"


class CountingWalk(Automaton):
    """A grammar that tells how often it went back."""

    rewound = 0

    def rewind(self) -> None:
        self.rewound += 1


def test_a_step_begins_its_blocks() -> None:
    """A row each for a request that speculates, two of diffusion, and one that does not begin a block."""
    bench = Bench()
    for slot, options in ((0, {}), (1, DIFFUSION), (3, ONE_A_STEP), (5, DIFFUSION)):
        take(bench.table, slot, options)
    walk = CountingWalk(VOCAB, {0: {3: 1}, 1: {4: 0}})
    slots, starts = np.array([5, 0, 3, 1]), torch.tensor([12, 20, LAST, 30])
    step = DraftStep(
        slots,
        np.array([False, True, True, True]),
        torch.tensor([21, 22, 23, 24]),
        starts,
        starts.numpy() + np.array([0, 5, 0, 0]),
        LAST + 2,
    )
    asked: list[list[int]] = []

    def walks_of(rows: np.ndarray) -> dict[int, CountingWalk]:
        asked.append(rows.tolist())
        return {1: walk}

    result = bench.drafter.draft(step, 1, walks_of)  # type: ignore[arg-type]
    assert asked == [[1]]
    assert bench.slots_by_pass() == [[0, 1]]
    assert bench.forward.passes[0].tokens == [22, *[MASK] * (BLOCK - 1), 24, *[MASK] * (BLOCK - 1)]
    assert result.speculating.tolist() == [1]
    assert result.drafts is not None
    assert result.drafts[0, 1:5].tolist() == [3, 4, 3, 4]
    assert walk.rewound == 1
    phases = {0: BlockPhase.NONE, 1: BlockPhase.DENOISING, 3: BlockPhase.PLANNED, 5: BlockPhase.NONE}
    assert {slot: bench.table.phase[slot] for slot in phases} == phases
    assert bench.table.length[[0, 1, 3]].tolist() == [BLOCK, BLOCK, 1]
    assert bench.table.start[[0, 1, 3]].tolist() == [25, 30, LAST]
    assert bench.table.start_gpu[[0, 1, 3]].tolist() == [20, 30, LAST]
    assert bench.table.blocks.tokens[[0, 1, 3], 0].tolist() == [22, 24, 23]


def test_speculation_and_denoising_share_the_first_forward() -> None:
    bench = Bench()
    bench.begin(1, ONE_A_STEP)
    bench.begin(4, ONE_A_STEP, start=20)
    bench.lay_out(2, {"draft_lora": False})
    bench.lay_out(5, {}, start=30)
    result = bench.drafter.run(np.array([5, 2]))
    assert bench.slots_by_pass() == [[5, 2, 1, 4]] + [[1, 4]] * (STEPS - 1)
    assert sorted(result.finished) == [1, 4]

    first, *others = bench.forward.passes
    assert first.tokens == [token for slot in (5, 2, 1, 4) for token in [slot] + [MASK] * (BLOCK - 1)]
    assert first.lora == [1] * BLOCK + [0] * 3 * BLOCK
    assert all(later.lora is None for later in others)

    assert result.drafts is not None
    for row, (slot, start, lora) in enumerate([(5, 30, True), (2, 10, False)]):
        block = torch.tensor([slot] + [MASK] * (BLOCK - 1))
        expected, _ = pick(bench.forward.of_block(block, start, lora), MASK)
        assert torch.equal(result.drafts[row], expected)
    assert bench.table.blocks.tokens[1].tolist() == alone(bench.forward, 1, ONE_A_STEP)[0]
    assert bench.table.blocks.tokens[4].tolist() == alone(bench.forward, 4, ONE_A_STEP, start=20)[0]


def test_each_block_commits_by_its_own_confidence() -> None:
    bench = Bench()
    starts = {1: 10, 4: 20, 3: 35}
    for slot, start in starts.items():
        bench.begin(slot, ONE_A_STEP, start)
    bench.lay_out(2, {}, start=45)
    bench.drafter.run(np.array([2]), bound=1)
    for slot, start in starts.items():
        block = torch.tensor([slot] + [MASK] * (BLOCK - 1))
        ids, sure = pick(bench.forward.of_block(block, start), MASK)
        place = 1 + int(sure[1:].argmax())
        block[place] = ids[place]
        assert torch.equal(bench.table.blocks.tokens[slot], block)


def test_speculation_alone_takes_one_forward() -> None:
    bench = Bench()
    bench.lay_out(0, {"block_size": 3})
    result = bench.drafter.run(np.array([0]))
    assert bench.forward.count == 1
    assert result.finished == []
    assert result.drafts is not None
    assert result.drafts.shape == (1, BLOCK)
    assert not result.drafts[:, 3:].any()


def test_nobody_takes_no_forward() -> None:
    bench = Bench()
    result = bench.drafter.run()
    assert (bench.forward.count, result.finished, result.drafts) == (0, [], None)


def test_the_bound_stops_the_loop_and_the_next_run_goes_on() -> None:
    bench = Bench()
    bench.begin(3, ONE_A_STEP)
    assert bench.drafter.run(bound=3).finished == []
    assert (bench.forward.count, bench.table.steps[3]) == (3, 3)
    assert bench.table.phase[3] == BlockPhase.DENOISING
    assert not bench.table.planned[3]
    assert bench.drafter.run(bound=3).finished == []
    assert bench.drafter.run(bound=3).finished == [3]
    assert bench.forward.count == STEPS
    assert bench.table.blocks.tokens[3].tolist() == alone(bench.forward, 3, ONE_A_STEP)[0]


@pytest.mark.parametrize(("bound", "steps"), [(1, 1), (2, 1), (3, 2)])
def test_the_bound_keeps_to_whole_steps(bound: int, steps: int) -> None:
    bench = Bench(max_tokens=BLOCK)
    for slot in (0, 1):
        bench.begin(slot, ONE_A_STEP)
    bench.drafter.run(bound=bound)
    assert bench.table.steps[:2].tolist() == [steps, steps]
    assert bench.forward.count == 2 * steps


def test_only_leaves_the_other_blocks_as_they_are() -> None:
    bench = Bench()
    for slot in (0, 2, 3):
        bench.begin(slot, ONE_A_STEP)
    others = bench.table.blocks.tokens[[0, 3]].clone()
    assert bench.drafter.run(only=np.array([2])).finished == [2]
    assert bench.slots_by_pass() == [[2]] * STEPS
    assert torch.equal(bench.table.blocks.tokens[[0, 3]], others)
    assert bench.table.phase[[0, 3]].tolist() == [BlockPhase.DENOISING] * 2
    assert bench.table.steps[[0, 3]].tolist() == [0, 0]


def test_chunks_split_a_group() -> None:
    bench = Bench(max_tokens=2 * BLOCK)
    for slot in (0, 1, 2):
        bench.begin(slot, ONE_A_STEP)
    bench.drafter.run()
    assert bench.slots_by_pass() == [[0, 1], [2]] * STEPS
    assert bench.forward.prepared == 2 * STEPS, "each part is set up anew: they share buffers"


def test_a_group_is_set_up_once() -> None:
    """Again only when a block is finished and leaves it."""
    bench = Bench()
    bench.begin(0, ONE_A_STEP)
    bench.begin(1, {**ONE_A_STEP, "tokens_per_step": 3})
    bench.drafter.run()
    assert bench.slots_by_pass() == [[0, 1]] * 3 + [[0]] * (STEPS - 3)
    assert bench.forward.prepared == 2


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("place", range(1, BLOCK))
def test_a_stop_token_before_every_mask_ends_the_block(place: int, kernels: str) -> None:
    """Committed from the left the block ends with it; from the right the masks before it are still needed."""
    for rising, steps in ((False, place), (True, STEPS)):
        bench = Bench(kernels=kernels)
        bench.begin(0, ONE_A_STEP, start=20)
        position = torch.arange(len(bench.forward.by_position))
        sureness = 10 + 0.1 * (position if rising else -position)
        bench.forward.by_position = torch.eye(VOCAB)[position % MASK] * sureness[:, None]
        bench.forward.by_token.zero_()
        bench.table.stop_ids[0, 0] = (20 + place) % MASK
        assert bench.drafter.run().finished == [0]
        assert bench.table.steps[0] == steps
        assert bench.table.blocks.masked[0].tolist() == [count > steps for count in range(BLOCK)]
        assert bench.table.planned[0]


def test_a_seed_with_the_mask_id_is_no_mask() -> None:
    bench = Bench()
    bench.begin(0, ONE_A_STEP)
    bench.table.blocks.tokens[0, 0] = MASK
    bench.drafter.run()
    assert bench.table.blocks.tokens[0, 0] == MASK
    assert MASK not in bench.table.blocks.tokens[0, 1:].tolist()
    assert bench.table.steps[0] == STEPS
