import torch

from nemotron_diffusion_plugin.rules.block import BlockState

MASK = 100


def start(seeds, lengths, block_size=4):
    return BlockState.start(torch.tensor(seeds), torch.tensor(lengths), block_size, MASK)


def test_start_is_a_seed_and_masks():
    block = start([7, 8, 9], [4, 2, 1])
    assert block.tokens.tolist() == [[7, MASK, MASK, MASK], [8, MASK, MASK, MASK], [9, MASK, MASK, MASK]]
    assert block.masked.tolist() == [
        [False, True, True, True],
        [False, True, False, False],
        [False, False, False, False],
    ]
    assert block.in_block.sum(dim=1).tolist() == [4, 2, 1]
    assert block.finished.tolist() == [False, False, True]
    assert block.step.tolist() == [0, 0, 0]


def test_masked_is_state_even_for_a_seed_with_the_mask_id():
    block = start([MASK], [3])
    assert block.masked.tolist() == [[False, True, True, False]]
    block.commit(torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4, dtype=torch.bool))
    assert block.tokens.tolist() == [[MASK, 2, 3, MASK]]
    assert block.finished.tolist() == [True]


def test_a_committed_mask_id_is_not_masked_again():
    block = start([5], [3])
    block.commit(torch.tensor([[0, MASK, 0, 0]]), torch.tensor([[False, True, False, False]]))
    assert block.masked.tolist() == [[False, False, True, False]]


def test_commit_changes_masked_positions_only_and_in_place():
    block = start([7, 8], [4, 3])
    tokens, masked, step = block.tokens, block.masked, block.step
    block.commit(torch.tensor([[1, 2, 3, 4]] * 2), torch.tensor([[True, True, False, True], [False] * 4]))
    assert block.tokens.tolist() == [[7, 2, MASK, 4], [8, MASK, MASK, MASK]]
    assert block.masked.tolist() == [[False, False, True, False], [False, True, True, False]]
    assert block.step.tolist() == [1, 0]
    assert (block.tokens is tokens, block.masked is masked, block.step is step) == (True, True, True)
    block.commit(torch.tensor([[9, 9, 9, 9]] * 2), torch.ones(2, 4, dtype=torch.bool))
    assert block.tokens.tolist() == [[7, 2, 9, 4], [8, 9, 9, MASK]]
    assert block.finished.all()


def test_start_does_not_share_the_lengths():
    lengths = torch.tensor([3])
    block = BlockState.start(torch.tensor([1]), lengths, 4, MASK)
    lengths += 1
    assert block.length.tolist() == [3]
