import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_plugin.rules.accept import accept_longest_prefix


def assert_matches(drafts, verified, num_drafts):
    """The kernel counts what the rule counts; returns the counts."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = (drafts, verified, num_drafts)
    result, wanted = accept(*(part.to(device) for part in tensors)).cpu(), accept_longest_prefix(*tensors)
    assert result.dtype == torch.int64
    assert torch.equal(result, wanted)
    return result.tolist()


def test_the_longest_prefix():
    drafts = torch.tensor([[5, 6, 7], [5, 9, 7], [9, 6, 7], [5, 6, 7], [5, 6, 7], [5, 6, 7]])
    verified = torch.tensor([[5, 6, 7, 8]] * 6)
    assert assert_matches(drafts, verified, torch.tensor([3, 3, 3, 2, 0, -1])) == [3, 1, 0, 2, 0, 0]


def test_no_drafts_and_no_rows():
    one = torch.tensor([0], dtype=torch.int32)
    assert assert_matches(torch.empty(1, 0, dtype=torch.int64), torch.tensor([[4]]), one) == [0]
    none = torch.empty(0, 3, dtype=torch.int64)
    assert assert_matches(none, torch.empty(0, 4, dtype=torch.int64), one[:0]) == []


def test_a_match_after_the_first_mismatch_does_not_count():
    drafts, verified = torch.tensor([[1, 9, 3, 4]]), torch.tensor([[1, 2, 3, 4, 5]])
    assert assert_matches(drafts, verified, torch.tensor([4])) == [1]


def test_the_width_limits_num_drafts():
    assert assert_matches(torch.tensor([[1]]), torch.tensor([[1, 2]]), torch.tensor([5])) == [1]


def test_ids_past_two_to_the_31_and_narrow_types():
    large = 2**40
    verified = torch.tensor([[large, 2, large + 1]])
    assert assert_matches(torch.tensor([[large, 2]]), verified, torch.tensor([2])) == [2]
    assert assert_matches(torch.tensor([[0, 2]]), verified, torch.tensor([2])) == [0]
    narrow = torch.tensor([[3, 4]], dtype=torch.int32)
    assert_matches(narrow, torch.tensor([[3, 4, 5]], dtype=torch.int32), narrow[0, :1])


def test_rows_of_wider_buffers():
    drafts = torch.arange(24).view(2, 12)[:, 3:7]
    verified = torch.cat([drafts, drafts[:, :1]], dim=1).repeat(1, 2)[:, :5]
    assert assert_matches(drafts, verified, torch.tensor([4, 2])) == [4, 2]


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 8 GB that only a CPU leaves untouched")
    far = 2**30 + 4096  # fits into 32 bits, the third row's place does not
    storage = torch.empty(2 * far + 5, dtype=torch.int32)  # memory that nobody touches costs nothing
    verified = storage.as_strided((3, 5), (far, 1))
    verified.copy_(torch.arange(5))
    drafts = verified[:, :4]
    assert assert_matches(drafts, verified, torch.tensor([4, 2, 3])) == [4, 2, 3]


def test_every_output_is_written(monkeypatch):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(-77))
    zeros = torch.zeros(3, 7, dtype=torch.int64)
    assert assert_matches(zeros[:, 1:], zeros, torch.arange(3)) == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch_matches_the_rule(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 9))

    def draw(columns, values):
        row = st.lists(values, min_size=columns, max_size=columns)
        return torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.int64)

    token = st.integers(0, 2)
    assert_matches(draw(width, token), draw(width + 1, token), draw(1, st.integers(-1, width + 2))[:, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drafts": torch.zeros(2, 3)}, "drafts is float32, expected int32 or int64"),
        ({"drafts": torch.zeros(2, 2000, dtype=torch.int64)}, "2000 drafts a row, expected at most 1024"),
        ({"drafts": torch.zeros(3, 2, dtype=torch.int64).T}, "drafts has stride 2 in its last dimension"),
        (
            {"verified": torch.zeros(2, 3, dtype=torch.int64)},
            r"verified has shape \(2, 3\), expected \(2, 4\)",
        ),
        ({"num_drafts": torch.zeros(3, dtype=torch.int64)}, "num_drafts has shape"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(changes, message):
    arguments = {
        "drafts": torch.zeros(2, 3, dtype=torch.int64),
        "verified": torch.zeros(2, 4, dtype=torch.int64),
        "num_drafts": torch.zeros(2, dtype=torch.int64),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        accept(**arguments)
