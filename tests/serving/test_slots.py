"""State by slot: options, stop tokens, phases and blocks."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.core import BlockPhase
from nemotron_diffusion_plugin.options import MAX_STOP_IDS, MODES, DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving import slots
from nemotron_diffusion_plugin.serving.slots import NO_TOKEN, SlotTable
from tests.serving.toy import BLOCK, DIFFUSION, MASK, POSITIONS, SLOTS, make_table, take


@pytest.fixture
def table() -> SlotTable:
    return make_table()


def begin(table: SlotTable, slots: list[int], starts: list[int], max_model_len: int = 64) -> None:
    seeds = torch.tensor([slot + 1 for slot in slots])
    table.begin_blocks(np.array(slots), np.array(starts), seeds, max_model_len)


def test_a_slot_is_taken_over_completely(table: SlotTable) -> None:
    options = {**DIFFUSION, "block_size": 4, "threshold": 0.3, "denoising_steps": 2}
    take(table, 2, options, temperature=0.5, min_tokens=4, stop_ids=(7, 9))
    assert table.is_diffusion(np.array([0, 2])).tolist() == [False, True]
    assert (table.longest[2], table.banned_until[2], table.prompt_len[2]) == (4, 14, 10)
    assert (float(table.rules.threshold[2]), int(table.rules.steps[2])) == (pytest.approx(0.3), 2)
    begin(table, [2], [62])
    assert (table.phase[2], bool(table.planned[2]), table.length[2]) == (BlockPhase.PLANNED, True, 1)

    take(table, 2, {"decoding_mode": "ar"}, stop_ids=())
    assert table.phase[2] == BlockPhase.NONE
    assert not table.planned[2]
    assert not table.is_diffusion(np.array([2]))[0]
    assert (table.longest[2], table.temperature[2], table.banned_until[2]) == (1, 0.0, 10)
    assert (table.stop_ids[2] == NO_TOKEN).all()
    assert int(table.rules.steps[2]) == 0


def test_modes_and_their_codes() -> None:
    assert [MODES[mode.code] for mode in DecodingMode] == list(DecodingMode)


def test_ar_drafts_nothing() -> None:
    sizes = {
        mode.value: DecodingOptions(decoding_mode=mode, block_size=BLOCK).longest_block for mode in MODES
    }
    assert sizes == {"ar": 1, "diffusion": BLOCK, "self_speculation": BLOCK, "auto": BLOCK}


def test_lora_only_where_blocks_are_speculated(table: SlotTable) -> None:
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


def test_modes_are_told_apart(table: SlotTable) -> None:
    for slot, mode in enumerate(MODES):
        take(table, slot, {"decoding_mode": mode.value, "block_size": 5})
    slots = np.arange(len(MODES))
    for mode in MODES:
        assert [MODES[slot] for slot in slots[table.is_mode(slots, mode)]] == [mode]
    assert table.longest[slots].tolist() == table.length[slots].tolist() == [1, 5, 5, 5]


def test_only_the_table_writes_phases_and_lengths(table: SlotTable) -> None:
    for values in (table.phase, table.start, table.length, table.steps):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1


def test_rules_are_those_of_each_request(table: SlotTable) -> None:
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


def test_a_block_is_cut_at_the_last_position(table: SlotTable) -> None:
    for slot in (0, 1, 2):
        take(table, slot, DIFFUSION)
    begin(table, [0, 1, 2], [20, 58, 62], max_model_len=64)
    blocks = table.read_blocks(torch.arange(3))
    assert blocks.length.tolist() == [8, 5, 1]
    assert blocks.masked.sum(dim=1).tolist() == [7, 4, 0]
    assert blocks.tokens[:, 0].tolist() == [1, 2, 3]
    assert blocks.tokens[1, 1:5].tolist() == [MASK] * 4
    assert table.start.tolist()[:3] == table.start_gpu.tolist()[:3] == [20, 58, 62]


def test_a_block_starts_anew(table: SlotTable) -> None:
    """Nothing of the block before is left, and the slots beside it stay as they are."""
    for slot in (1, 4):
        take(table, slot, DIFFUSION)
    begin(table, [1, 4], [10, 20])
    index = torch.tensor([1])
    blocks = table.read_blocks(index)
    blocks.commit(torch.full((1, BLOCK), 3), torch.ones(1, BLOCK, dtype=torch.bool))
    assert table.denoised(np.array([1]), index, blocks, torch.tensor([True])).tolist() == [1]
    assert (table.steps[1], table.phase[1], bool(table.planned[1])) == (1, BlockPhase.PLANNED, True)
    assert table.blocks.tokens[1].tolist() == [2] + [3] * (BLOCK - 1)

    begin(table, [1], [18])
    assert table.blocks.tokens[1].tolist() == [2] + [MASK] * (BLOCK - 1)
    assert (int(table.blocks.step[1]), table.steps[1], table.phase[1]) == (0, 0, BlockPhase.DENOISING)
    assert not table.planned[1]
    assert table.blocks.tokens[4].tolist() == [5] + [MASK] * (BLOCK - 1)


def test_a_copy_of_blocks_changes_nothing(table: SlotTable) -> None:
    take(table, 0, DIFFUSION)
    begin(table, [0], [10])
    table.read_blocks(torch.tensor([0])).tokens.fill_(9)
    assert table.blocks.tokens[0, 1:].tolist() == [MASK] * (BLOCK - 1)


def test_a_dropped_block(table: SlotTable) -> None:
    for slot in (0, 1):
        take(table, slot, DIFFUSION)
    begin(table, [0, 1], [62, 10])
    table.release(0)
    assert table.phase[:2].tolist() == [BlockPhase.NONE, BlockPhase.DENOISING]
    assert not table.planned.any()


def test_a_block_from_its_beginning_to_its_verify_forward(table: SlotTable) -> None:
    take(table, 0, DIFFUSION)
    slots, index = np.array([0]), torch.tensor([0])
    begin(table, [0], [10])
    assert table.denoising().tolist() == [0]
    assert table.denoised(slots, index, table.read_blocks(index), torch.tensor([False])).tolist() == []
    assert table.denoised(slots, index, table.read_blocks(index), torch.tensor([True])).tolist() == [0]
    assert table.is_in(slots, BlockPhase.PLANNED).all()
    assert (table.steps[0], bool(table.planned[0])) == (2, True)
    table.hand_over(slots)
    assert table.is_in(slots, BlockPhase.NONE).all()
    table.end(slots)
    assert table.is_in(slots, BlockPhase.DENOISING, BlockPhase.ENDED).all()


def test_masks_after_tokens_that_stand(table: SlotTable) -> None:
    take(table, 0, DIFFUSION)
    begin(table, [0], [58])
    index = torch.tensor([0])
    table.denoised(np.array([0]), index, table.read_blocks(index), torch.tensor([True]))
    table.mask_after(0, torch.tensor([1, 8, 9]))
    assert table.blocks.tokens[0].tolist() == [1, 8, 9] + [MASK] * (BLOCK - 3)
    assert table.blocks.masked[0].nonzero().flatten().tolist() == [3, 4]
    assert (table.phase[0], bool(table.planned[0])) == (BlockPhase.DENOISING, False)


def test_what_is_planned_after_a_position(table: SlotTable) -> None:
    for slot in (0, 1):
        take(table, slot, DIFFUSION)
    begin(table, [0, 1], [10, 10])
    index = torch.tensor([0])
    blocks = table.read_blocks(index)
    blocks.commit(torch.arange(BLOCK)[None] + 20, torch.ones(1, BLOCK, dtype=torch.bool))
    table.denoised(np.array([0]), index, blocks, torch.tensor([True]))
    positions = torch.tensor([9, 10, 16, 17, 10])
    inside, place, tokens = table.planned_token(torch.tensor([0, 0, 0, 0, 1]), positions)
    assert inside.tolist() == [False, True, True, False, False]
    assert place.tolist() == [0, 1, 7, 8, 1]
    assert tokens[inside].tolist() == [21, 27]


def test_which_requests_end(table: SlotTable) -> None:
    for slot in (0, 1, 2):
        take(table, slot, stop_ids=(7,))
    tokens = torch.tensor([[1, 7, 2], [1, 2, 7], [1, 2, 3]])
    total = torch.tensor([20, 20, POSITIONS])
    ended = table.has_ended(torch.arange(3), tokens, torch.tensor([2, 2, 3]), total)
    assert ended.tolist() == [True, False, True]


def test_stop_tokens(table: SlotTable) -> None:
    take(table, 0, stop_ids=(5,))
    take(table, 1, stop_ids=(6, 8))
    found = table.is_stop(torch.tensor([1, 0]), torch.tensor([[5, 6, 8], [5, 6, 8]]))
    assert found.tolist() == [[False, True, True], [True, False, False]]


def test_as_many_stop_tokens_as_there_is_room_for(table: SlotTable) -> None:
    take(table, 3, stop_ids=tuple(range(MAX_STOP_IDS)))
    assert table.is_stop(torch.tensor([3]), torch.tensor([[0, MAX_STOP_IDS - 1, MAX_STOP_IDS]])).tolist() == [
        [True, True, False]
    ]


def test_banned_rows(table: SlotTable) -> None:
    """A row is banned while its position comes before prompt and `min_tokens`."""
    take(table, 0, DIFFUSION, min_tokens=5)
    take(table, 1, DIFFUSION, min_tokens=100)
    take(table, 2, DIFFUSION)
    slots = np.array([0, 0, 0, 1, 2])
    rows = np.full(5, BLOCK)
    assert table.banned_rows(slots, np.array([10, 13, 15, 10, 10]), rows).tolist() == [5, 2, 0, BLOCK, 0]


def test_host_values_are_copied(table: SlotTable) -> None:
    values = np.arange(4)
    copied = table.on_device(values)
    values[:] = 9
    assert copied.tolist() == [0, 1, 2, 3]
    assert copied.dtype == torch.int64
    assert table.on_device(np.array([True, False])[:, None], torch.float32).tolist() == [[1.0], [0.0]]
    assert table.on_device(np.empty(0, dtype=np.int64)).shape == (0,)


def test_size_is_fixed(table: SlotTable) -> None:
    """Many requests through a few slots leave every array as large as it was."""
    sizes = {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")}
    for number in range(200):
        take(table, number % SLOTS, DIFFUSION, stop_ids=tuple(range(number % 9)))
    assert {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")} == sizes


WRITTEN_HERE_ALONE = {"phase", "planned", "start", "start_gpu", "length", "masked"}


def written_items(source: str) -> set[str]:
    """The attributes whose items a module assigns to."""
    targets = [
        target
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    items = [target.value for target in targets if isinstance(target, ast.Subscript)]
    return {item.attr for item in items if isinstance(item, ast.Attribute)}


def test_no_other_module_writes_to_the_state_of_a_block() -> None:
    package = Path(slots.__file__).parents[1]
    writers = {
        str(path.relative_to(package)): found
        for path in package.rglob("*.py")
        if (found := written_items(path.read_text()) & WRITTEN_HERE_ALONE)
    }
    assert list(writers) == ["serving/slots.py"], writers
    assert written_items("self.table.planned[slot] |= True") == {"planned"}
