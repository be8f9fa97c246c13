import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.low_rank import add_low_rank, expand, request_rows, shrink
from nemotron_diffusion_kernels.low_rank.reference import add_low_rank_reference, shrink_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def make_inputs(rows, depth, rank, width, dtype, device="cpu", chosen=None):
    """y, x, A, B and flags; NaN stands where nothing may be read."""
    generator = torch.Generator().manual_seed(rows * 1000 + rank)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    flags = torch.arange(rows) % 3 != 1 if chosen is None else torch.tensor(chosen)
    y, x = random(rows, width), random(rows, depth)
    y[~flags], x[~flags] = torch.nan, torch.nan
    a, b = random(rank, depth) / depth**0.5, random(width, rank) / rank**0.5
    return [*(part.to(device, dtype) for part in (y, x, a, b)), flags.to(device)]


def assert_adds(y, x, a, b, flags, added):
    """`added(y)` changes the chosen rows as float64 says, and no bit of the others."""
    wanted, result = y.double(), y.clone()
    add_low_rank_reference(wanted, x.double(), a.double(), b.double(), 4.0, flags, torch.float64)
    added(result)
    tolerance = TOLERANCE[y.dtype]
    torch.testing.assert_close(result[flags].double(), wanted[flags], rtol=tolerance, atol=4 * tolerance)
    assert torch.equal(result[~flags].view(torch.uint8), y[~flags].view(torch.uint8))


def both_forms(y, x, a, b, flags, rows):
    assert_adds(y, x, a, b, flags, lambda out: add_low_rank(out, x, a, b, 4.0, rows, backend="triton"))
    low = shrink(x, a, rows, backend="triton")
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, shrink_reference(x, a, rows), rtol=1e-5, atol=1e-5)
    assert_adds(y, x, a, b, flags, lambda out: expand(out, low, b, 4.0, rows, backend="triton"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "depth", "rank", "width"), [(1, 16, 1, 1), (17, 130, 8, 65), (33, 256, 100, 300)]
)
def test_matches_the_reference_and_leaves_other_rows_alone(
    rows, depth, rank, width, dtype, device, monkeypatch
):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    y, x, a, b, flags = make_inputs(rows, depth, rank, width, dtype, device)
    both_forms(y, x, a, b, flags, flags)


def test_the_published_rank_and_depth(device):
    y, x, a, b, flags = make_inputs(3, 4096, 128, 100, torch.bfloat16, device)
    both_forms(y, x, a, b, flags, flags.to(torch.int32))


def test_all_rows_and_none(device):
    y, x, a, b, flags = make_inputs(5, 40, 4, 50, torch.float32, device, chosen=[True] * 5)
    both_forms(y, x, a, b, flags, None)
    y, x, a, b, flags = make_inputs(20, 40, 4, 50, torch.float32, device, chosen=[False] * 20)
    both_forms(y, x, a, b, flags, flags)
    assert not shrink(x, a, flags, backend="triton").any()
    add_low_rank(y[:0], x[:0], a, b, 1.0, flags[:0], backend="triton")
    assert shrink(x[:0], a, backend="triton").shape == (0, 4)


def test_padding_that_is_no_number_stays(device):
    y, x, a, b, flags = make_inputs(4, 20, 3, 10, torch.float32, device, chosen=[True, False, True, False])
    strange = torch.tensor([0x7FC12345, -4194303, -(2**31), 2139095041], dtype=torch.int32, device=device)
    y[1, :4] = strange.view(torch.float32)
    for out in (y.clone(), y.clone()):
        add_low_rank(out, x, a, b, 4.0, flags, backend="triton")
        assert torch.equal(out[1].view(torch.int32), y[1].view(torch.int32))


def test_rows_of_wider_buffers(device):
    y, x, a, b, flags = make_inputs(6, 48, 16, 40, torch.bfloat16, device)
    wide = torch.full((6, 100), torch.nan, dtype=torch.bfloat16, device=device)
    wide[:, 8:48], wide[:, 50:98] = y, x
    add_low_rank(wide[:, 8:48], wide[:, 50:98], a, b, 4.0, flags, backend="triton")
    assert_adds(y, x, a, b, flags, lambda out: out.copy_(wide[:, 8:48]))
    assert wide[:, :8].isnan().all()
    assert wide[:, 48:50].isnan().all()


def test_a_rows_result_does_not_depend_on_the_rows_beside_it(device):
    y, x, a, b, _ = make_inputs(32, 100, 8, 40, torch.float32, device, chosen=[True] * 32)
    flags = torch.zeros(32, dtype=torch.bool, device=device)
    flags[5] = True
    together, alone = y.clone(), y.clone()
    add_low_rank(together, x, a, b, 4.0, backend="triton")
    add_low_rank(alone, x, a, b, 4.0, flags, backend="triton")
    torch.testing.assert_close(alone[5], together[5], rtol=1e-6, atol=1e-6)
    assert torch.equal(alone[:5], y[:5])


def test_two_ranks_with_a_sum_in_between(device):
    y, x, a, b, flags = make_inputs(9, 64, 8, 40, torch.float32, device)
    low = sum(
        shrink(x[:, part], a[:, part].contiguous(), flags, backend="triton")
        for part in (slice(0, 32), slice(32, 64))
    )
    assert_adds(y, x, a, b, flags, lambda out: expand(out, low, b, 4.0, flags, backend="triton"))


def test_the_product_may_come_out_of_the_projection_itself(device):
    y, x, a, b, flags = make_inputs(9, 64, 8, 40, torch.bfloat16, device)
    weight = torch.randn(40, 64, device=device).bfloat16() / 8
    wide = x.nan_to_num() @ torch.cat([weight, a]).T  # [N, H + r]
    y = wide[:, :40]
    assert_adds(
        y.clone(), x, a, b, flags, lambda out: expand(out, wide[:, 40:], b, 4.0, flags, backend="triton")
    )


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 8 GB that only a CPU leaves untouched")
    far = 2**31 + 4096
    storage = torch.empty(far + 100, dtype=torch.bfloat16)  # memory that nobody touches costs nothing
    y, x, a, b, flags = make_inputs(2, 32, 4, 40, torch.bfloat16, chosen=[True, True])
    view = storage.as_strided((2, 40), (far, 1))
    view.copy_(y)
    add_low_rank(view, x, a, b, 4.0, flags, backend="triton")
    assert_adds(y, x, a, b, flags, lambda out: out.copy_(view))


def test_the_flags_of_requests():
    starts = torch.tensor([0, 3, 3, 7, 8], dtype=torch.int32)
    flags = request_rows(torch.tensor([True, True, False, True]), starts, 11)
    assert flags.tolist() == [True] * 3 + [False] * 4 + [True] + [False] * 3
    assert (
        request_rows(torch.tensor([1, 0]), torch.tensor([2, 4, 5]), 6).tolist()
        == [False, False, True, True] + [False] * 2
    )
    assert request_rows(torch.zeros(0, dtype=torch.bool), torch.tensor([0]), 2).tolist() == [False, False]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_shape_matches_the_reference(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    depth, rank, width = (data.draw(st.integers(1, limit)) for limit in (140, 40, 70))
    chosen = data.draw(st.lists(st.booleans(), min_size=1, max_size=20))
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    y, x, a, b, flags = make_inputs(len(chosen), depth, rank, width, dtype, device, chosen)
    both_forms(y, x, a, b, flags, flags)


ONES = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_low_rank(ONES, ONES, ONES[:, :3], ONES, 1.0), r"add_low_rank: a has shape \(4, 3\)"),
        (lambda: add_low_rank(ONES, ONES, ONES.half(), ONES, 1.0), "a is float16, expected float32"),
        (lambda: add_low_rank(ONES, ONES, ONES, ONES[:2], 1.0), r"b has shape \(2, 4\), expected \(4, 4\)"),
        (lambda: add_low_rank(ONES, ONES, torch.ones(300, 4), torch.ones(4, 300), 1.0), "the rank is 300"),
        (
            lambda: add_low_rank(ONES, ONES, ONES, ONES, 1.0, ONES[0].double()),
            "rows is float64, expected bool",
        ),
        (
            lambda: shrink(ONES, torch.ones(4, 8).T[:4]),
            r"shrink: a has stride \d+ in its last|shrink: a has stride",
        ),
        (lambda: expand(ONES, ONES[:, :0], ONES, 1.0), "expand: the rank is 0, expected 1 to 256"),
        (lambda: expand(ONES, ONES[:2], ONES, 1.0), r"low has shape \(2, 4\)"),
        (
            lambda: request_rows(ONES[0] > 0, torch.zeros(3, dtype=torch.int32), 4),
            "query_start_loc has shape",
        ),
        (lambda: add_low_rank(ONES, ONES, ONES, ONES, 1.0, backend="jax"), "got backend 'jax'"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
