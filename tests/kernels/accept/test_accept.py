import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_plugin.rules.accept import accept_longest_prefix


def assert_matches(*tensors):
    """Both backends agree; returns the kernel's result on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = accept(*(tensor.to(device) for tensor in tensors), backend="triton")
    wanted = accept(*tensors, backend="torch")
    for got, want in zip(result, wanted, strict=True):
        assert got.dtype == want.dtype == torch.int64
        assert torch.equal(got.cpu(), want)
    return [part.cpu().tolist() for part in result]


def test_the_longest_prefix_and_its_bonus():
    drafts = torch.tensor([[5, 6, 7], [5, 9, 7], [9, 6, 7], [5, 6, 7], [5, 6, 7], [5, 6, 7]])
    verified = torch.tensor([[5, 6, 7, 8]] * 6)
    accepted, emitted, seeds, lengths = assert_matches(
        drafts, verified, torch.tensor([3, 3, 3, 2, 0, -1]), torch.tensor([10, 20, 30, 40, 50, 60])
    )
    assert accepted == [3, 1, 0, 2, 0, 0]
    assert seeds == [8, 6, 5, 7, 5, -1]
    assert lengths == [14, 22, 31, 43, 51, 60]
    assert emitted == [
        [5, 6, 7, 8],
        [5, 6, -1, -1],
        [5, -1, -1, -1],
        [5, 6, 7, -1],
        [5, -1, -1, -1],
        [-1, -1, -1, -1],
    ]


def test_no_drafts_and_no_rows():
    one = torch.tensor([0], dtype=torch.int32)
    result = assert_matches(torch.empty(1, 0, dtype=torch.int64), torch.tensor([[4]]), one, one)
    assert result == [[0], [[4]], [4], [1]]
    none = one[:0]
    assert assert_matches(
        torch.empty(0, 3, dtype=torch.int64), torch.empty(0, 4, dtype=torch.int64), none, none
    )


def test_a_match_after_the_first_mismatch_does_not_count():
    result = assert_matches(
        torch.tensor([[1, 9, 3, 4]]), torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([4]), torch.tensor([0])
    )
    assert result[:2] == [[1], [[1, 2, -1, -1, -1]]]


def test_the_width_limits_num_drafts():
    result = assert_matches(torch.tensor([[1]]), torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([0]))
    assert result == [[1], [[1, 2]], [2], [2]]


def test_ids_past_two_to_the_31_and_narrow_types():
    large = 2**40
    assert_matches(
        torch.tensor([[large, 2]]),
        torch.tensor([[large, 2, large + 1]]),
        torch.tensor([2]),
        torch.tensor([large]),
    )
    narrow = torch.tensor([[3, 4]], dtype=torch.int32)
    assert_matches(narrow, torch.tensor([[3, 4, 5]], dtype=torch.int32), narrow[0, :1], narrow[0, 1:])


def test_rows_of_wider_buffers(device):
    drafts = torch.arange(24, device=device).view(2, 12)[:, 3:7]
    verified = torch.cat([drafts, drafts[:, :1]], dim=1).repeat(1, 2)[:, :5]
    assert_matches(drafts.cpu(), verified.cpu(), torch.tensor([4, 2]), torch.tensor([1, 2]))


def test_every_output_is_written(monkeypatch):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(-77))
    assert_matches(
        torch.zeros(3, 6, dtype=torch.int64),
        torch.zeros(3, 7, dtype=torch.int64),
        torch.arange(3),
        torch.arange(3),
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch_matches_the_reference_and_the_plugin(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 9))
    token = st.integers(0, 2)

    def draw(columns, values=token):
        row = st.lists(values, min_size=columns, max_size=columns)
        return torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.int64)

    drafts, verified = draw(width), draw(width + 1)
    num_drafts, lengths = draw(1, st.integers(-1, width))[:, 0], draw(1, st.integers(0, 2**20))[:, 0]
    accepted, emitted, seeds, _ = assert_matches(drafts, verified, num_drafts, lengths)
    assert accepted == accept_longest_prefix(drafts, verified, num_drafts).tolist()
    for row, count in enumerate(accepted):
        kept = [] if num_drafts[row] < 0 else verified[row, : count + 1].tolist()
        assert emitted[row] == kept + [-1] * (width + 1 - len(kept))
        assert seeds[row] == (kept or [-1])[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drafts": torch.zeros(2, 3)}, "drafts is float32, expected int32 or int64"),
        ({"drafts": torch.zeros(2, 2000, dtype=torch.int64)}, "2000 drafts a row, expected at most 1024"),
        (
            {"verified": torch.zeros(2, 3, dtype=torch.int64)},
            r"verified has shape \(2, 3\), expected \(2, 4\)",
        ),
        ({"num_drafts": torch.zeros(3, dtype=torch.int64)}, "num_drafts has shape"),
        ({"lengths": torch.zeros(2)}, "lengths is float32"),
        ({"backend": "jax"}, "got backend 'jax'"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(changes, message):
    arguments = {
        "drafts": torch.zeros(2, 3, dtype=torch.int64),
        "verified": torch.zeros(2, 4, dtype=torch.int64),
        "num_drafts": torch.zeros(2, dtype=torch.int64),
        "lengths": torch.zeros(2, dtype=torch.int64),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        accept(**arguments)
