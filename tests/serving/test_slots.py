"""State by slot: options, stop tokens, phases and blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.slots import (
    MAX_STOP_IDS,
    MODE_CODES,
    MODES,
    NO_TOKEN,
    SELF_SPECULATION,
    BlockPhase,
    RequestTable,
    drafted_block,
)
from tests.serving.toy import BLOCK, DIFFUSION, MASK, SLOTS, make_table, take


@pytest.fixture
def table() -> RequestTable:
    return make_table()


def begin(table: RequestTable, slots: list[int], starts: list[int], last: int = 62) -> None:
    seeds = torch.tensor([slot + 1 for slot in slots])
    table.begin_blocks(np.array(slots), np.array(starts), seeds, last)


def test_a_slot_is_taken_over_completely(table: RequestTable) -> None:
    options = {**DIFFUSION, "block_size": 4, "threshold": 0.3, "denoising_steps": 2}
    take(table, 2, options, temperature=0.5, min_tokens=4, stop_ids=(7, 9))
    assert table.is_diffusion(np.array([0, 2])).tolist() == [False, True]
    assert (table.block_size[2], table.banned_until[2], table.prompt_len[2]) == (4, 14, 10)
    assert (float(table.rules.threshold[2]), int(table.rules.steps[2])) == (pytest.approx(0.3), 2)
    begin(table, [2], [10])
    table.planned[2] = True

    take(table, 2, {"decoding_mode": "ar"}, stop_ids=())
    assert table.phase[2] == BlockPhase.NONE
    assert not table.planned[2]
    assert not table.is_diffusion(np.array([2]))[0]
    assert (table.block_size[2], table.temperature[2], table.banned_until[2]) == (1, 0.0, 10)
    assert (table.stop_ids[2] == NO_TOKEN).all()
    assert int(table.rules.steps[2]) == 0


def test_modes_and_their_codes() -> None:
    assert [MODES[code] for code in MODE_CODES.values()] == list(MODE_CODES)


def test_ar_drafts_nothing() -> None:
    sizes = {
        mode.value: drafted_block(DecodingOptions(decoding_mode=mode, block_size=BLOCK)) for mode in MODES
    }
    assert sizes == {"ar": 1, "diffusion": BLOCK, "self_speculation": BLOCK, "auto": BLOCK}


def test_lora_only_where_blocks_are_speculated(table: RequestTable) -> None:
    chosen: list[tuple[dict[str, object], bool]] = [
        ({}, True),
        ({"draft_lora": False}, False),
        ({**DIFFUSION, "draft_lora": True}, False),
        ({"decoding_mode": "self_speculation"}, True),
        ({"decoding_mode": "ar"}, False),
    ]
    for slot, (options, _) in enumerate(chosen):
        take(table, slot, options)
    assert table.draft_lora[: len(chosen)].tolist() == [active for _, active in chosen]


def test_auto_is_self_speculation_that_is_told_apart(table: RequestTable) -> None:
    for slot, mode in enumerate(MODES):
        take(table, slot, {"decoding_mode": mode.value, "block_size": 5})
    slots = np.arange(len(MODES))
    assert [MODES[code] for code in table.modes(slots)] == list(MODES)
    speculates = table.mode[slots] == SELF_SPECULATION
    assert [mode for mode, yes in zip(MODES, speculates, strict=True) if yes] == [
        DecodingMode.SELF_SPECULATION,
        DecodingMode.AUTO,
    ]
    assert table.most[slots].tolist() == table.block_size[slots].tolist() == [1, 5, 5, 5]
    take(table, 3, {"decoding_mode": "self_speculation"})
    assert MODES[table.modes(np.array([3]))[0]] is DecodingMode.SELF_SPECULATION


def test_rules_are_those_of_each_request(table: RequestTable) -> None:
    chosen: list[dict[str, object]] = [
        {**DIFFUSION, "commit_rule": "fixed", "tokens_per_step": 3},
        {**DIFFUSION, "commit_rule": "schedule", "denoising_steps": 5},
        {**DIFFUSION, "commit_rule": "cumulative_error", "threshold": 0.25},
    ]
    for slot, options in enumerate(chosen):
        take(table, slot, options)
    rules = table.rules_of(torch.tensor([2, 0, 1]))
    expected = CommitRules.of([table.settings.options(chosen[slot]) for slot in (2, 0, 1)])
    for name in ("kind", "threshold", "steps", "tokens_per_step"):
        assert torch.equal(getattr(rules, name), getattr(expected, name)), name


def test_a_block_is_cut_at_the_last_position(table: RequestTable) -> None:
    for slot in (0, 1, 2):
        take(table, slot, DIFFUSION)
    begin(table, [0, 1, 2], [20, 58, 62], last=62)
    blocks = table.read_blocks(torch.arange(3))
    assert blocks.length.tolist() == [8, 5, 1]
    assert blocks.masked.sum(dim=1).tolist() == [7, 4, 0]
    assert blocks.tokens[:, 0].tolist() == [1, 2, 3]
    assert blocks.tokens[1, 1:5].tolist() == [MASK] * 4
    assert table.start.tolist()[:3] == table.start_gpu.tolist()[:3] == [20, 58, 62]


def test_a_block_starts_anew(table: RequestTable) -> None:
    """Nothing of the block before is left, and the slots beside it stay as they are."""
    for slot in (1, 4):
        take(table, slot, DIFFUSION)
    begin(table, [1, 4], [10, 20])
    index = torch.tensor([1])
    blocks = table.read_blocks(index)
    blocks.commit(torch.full((1, BLOCK), 3), torch.ones(1, BLOCK, dtype=torch.bool))
    table.write_blocks(index, blocks)
    table.steps[1], table.phase[1], table.planned[1] = 4, BlockPhase.PLANNED, True
    assert table.blocks.tokens[1].tolist() == [2] + [3] * (BLOCK - 1)

    begin(table, [1], [18])
    assert table.blocks.tokens[1].tolist() == [2] + [MASK] * (BLOCK - 1)
    assert (int(table.blocks.step[1]), table.steps[1], table.phase[1]) == (0, 0, BlockPhase.DENOISING)
    assert not table.planned[1]
    assert table.blocks.tokens[4].tolist() == [5] + [MASK] * (BLOCK - 1)


def test_a_copy_of_blocks_changes_nothing(table: RequestTable) -> None:
    take(table, 0, DIFFUSION)
    begin(table, [0], [10])
    table.read_blocks(torch.tensor([0])).tokens.fill_(9)
    assert table.blocks.tokens[0, 1:].tolist() == [MASK] * (BLOCK - 1)


def test_a_dropped_block(table: RequestTable) -> None:
    for slot in (0, 1):
        take(table, slot, DIFFUSION)
    begin(table, [0, 1], [10, 10])
    table.planned[0] = True
    table.release(0)
    assert table.phase[:2].tolist() == [BlockPhase.NONE, BlockPhase.DENOISING]
    assert not table.planned.any()


def test_stop_tokens(table: RequestTable) -> None:
    take(table, 0, stop_ids=(5,))
    take(table, 1, stop_ids=(6, 8))
    found = table.is_stop(torch.tensor([1, 0]), torch.tensor([[5, 6, 8], [5, 6, 8]]))
    assert found.tolist() == [[False, True, True], [True, False, False]]


def test_as_many_stop_tokens_as_there_is_room_for(table: RequestTable) -> None:
    take(table, 3, stop_ids=tuple(range(MAX_STOP_IDS)))
    assert table.is_stop(torch.tensor([3]), torch.tensor([[0, MAX_STOP_IDS - 1, MAX_STOP_IDS]])).tolist() == [
        [True, True, False]
    ]


def test_banned_rows(table: RequestTable) -> None:
    """A row is banned while its position comes before prompt and `min_tokens`."""
    take(table, 0, DIFFUSION, min_tokens=5)
    take(table, 1, DIFFUSION, min_tokens=100)
    take(table, 2, DIFFUSION)
    slots = np.array([0, 0, 0, 1, 2])
    rows = np.full(5, BLOCK)
    assert table.banned_rows(slots, np.array([10, 13, 15, 10, 10]), rows).tolist() == [5, 2, 0, BLOCK, 0]


def test_host_values_are_copied(table: RequestTable) -> None:
    values = np.arange(4)
    copied = table.on_device(values)
    values[:] = 9
    assert copied.tolist() == [0, 1, 2, 3]
    assert copied.dtype == torch.int64
    assert table.on_device(np.array([True, False])[:, None], torch.float32).tolist() == [[1.0], [0.0]]
    assert table.on_device(np.empty(0, dtype=np.int64)).shape == (0,)


def test_size_is_fixed(table: RequestTable) -> None:
    """Many requests through a few slots leave every array as large as it was."""
    sizes = {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")}
    for number in range(200):
        take(table, number % SLOTS, DIFFUSION, stop_ids=tuple(range(number % 9)))
    assert {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")} == sizes
