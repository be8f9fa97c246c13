import torch

from nemotron_diffusion_plugin.decoding.accept import accept_longest_prefix


def accepted(drafts, verified, num_drafts=None):
    count = len(drafts) if num_drafts is None else num_drafts
    return accept_longest_prefix(
        torch.tensor([drafts]), torch.tensor([verified]), torch.tensor([count])
    ).item()


def test_longest_matching_prefix():
    assert accepted([1, 2, 3], [1, 2, 3, 4]) == 3
    assert accepted([1, 2, 3], [1, 2, 9, 4]) == 2
    assert accepted([1, 2, 3], [9, 2, 3, 4]) == 0


def test_a_match_after_a_mismatch_does_not_count():
    assert accepted([1, 2, 3, 4], [1, 9, 3, 4, 5]) == 1


def test_only_the_drafts_a_row_has():
    assert accepted([1, 2, 3], [1, 2, 3, 4], num_drafts=2) == 2
    assert accepted([1, 2, 3], [1, 2, 3, 4], num_drafts=0) == 0


def test_rows_are_independent():
    drafts = torch.tensor([[1, 2], [3, 4], [5, 6]])
    verified = torch.tensor([[1, 2, 0], [3, 0, 0], [0, 6, 0]])
    assert accept_longest_prefix(drafts, verified, torch.tensor([2, 2, 2])).tolist() == [2, 1, 0]


def test_no_drafts_at_all():
    empty = torch.empty(2, 0, dtype=torch.int64)
    assert accept_longest_prefix(empty, torch.tensor([[4], [5]]), torch.tensor([0, 0])).tolist() == [0, 0]
