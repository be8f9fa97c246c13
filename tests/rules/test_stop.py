import pytest
import torch

from nemotron_diffusion_plugin.rules.stop import ends_block, trim

STOP = 11


def ends(tokens, masked, stops=(STOP,)):
    tokens = torch.tensor([tokens])
    return ends_block(tokens, torch.tensor([masked]), torch.isin(tokens, torch.tensor(stops))).item()


def test_a_stop_token_ends_the_block_only_without_a_mask_before_it():
    assert ends([5, 6, STOP, 100], [False, False, False, True])
    assert not ends([5, 100, STOP, 100], [False, True, False, True])
    assert not ends([5, 6, 7, 100], [False, False, False, True])


def test_a_second_stop_token_behind_a_mask_does_not_matter():
    assert ends([5, STOP, 100, STOP], [False, False, True, False])


def test_a_masked_position_is_no_stop_token_even_if_the_mask_id_is_one():
    assert not ends([5, 100, 6], [False, True, False], stops=(100,))


def test_rows_are_independent():
    tokens = torch.tensor([[1, STOP], [1, 2]])
    masked = torch.zeros(2, 2, dtype=torch.bool)
    assert ends_block(tokens, masked, tokens == STOP).tolist() == [True, False]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="expected three equal ones"):
        ends_block(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "min_tokens", "before", "expected"),
    [
        ([1, 2, 3], 10, 0, 0, ([1, 2, 3], None)),
        ([1, STOP, 3], 10, 0, 0, ([1, STOP], "stop")),
        ([1, 2, 3], 2, 0, 0, ([1, 2], "length")),
        ([1, 2, 3], 3, 0, 0, ([1, 2, 3], "length")),
        ([1, STOP, 3], 2, 0, 0, ([1, STOP], "stop")),
        ([1, 2, STOP], 2, 0, 0, ([1, 2], "length")),
        ([1, 2, 3], 5, 0, 4, ([1], "length")),
        ([STOP, 1, STOP], 10, 3, 0, ([STOP, 1, STOP], "stop")),
        ([STOP, 1], 10, 3, 2, ([STOP], "stop")),
        ([STOP, 1], 10, 4, 2, ([STOP, 1], None)),
        ([STOP, 1], 2, 5, 0, ([STOP, 1], "length")),
        ([], 5, 0, 2, ([], None)),
        ([], 2, 0, 2, ([], "length")),
        ([1], 2, 0, 2, ([], "length")),
    ],
)
def test_trim(tokens, max_tokens, min_tokens, before, expected):
    assert trim(tokens, {STOP}, max_tokens, min_tokens, before) == expected


def test_trim_without_stop_tokens():
    assert trim([STOP, STOP], (), 9) == ([STOP, STOP], None)
