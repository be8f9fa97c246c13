import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.low_rank import expand, shrink
from nemotron_diffusion_plugin.serving.operators import TorchOperators

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
EXACT = TorchOperators()


def make_inputs(rows, depth, rank, width, dtype, device="cpu", chosen=None):
    """y, x, A, B and flags; NaN stands where nothing may be read."""
    generator = torch.Generator().manual_seed(rows * 1000 + rank)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    flags = torch.arange(rows) % 3 != 1 if chosen is None else torch.tensor(chosen)
    y, x = random(rows, width), random(rows, depth)
    y[~flags], x[~flags] = torch.nan, torch.nan
    a, b = random(rank, depth) / depth**0.5, 4.0 * random(width, rank) / rank**0.5
    return [*(part.to(device, dtype) for part in (y, x, a, b)), flags.to(device)]


def assert_adds(y, x, a, b, flags, added):
    """`added(y)` changes the chosen rows as plain torch does in float64, and no bit of the others."""
    x, a, b = (part.double() for part in (x, a, b))
    wanted, result, every_row = y.double(), y.clone(), torch.ones_like(flags, dtype=torch.float64)[:, None]
    EXACT.expand(wanted, EXACT.shrink(x, a, every_row), b, every_row)
    added(result)
    tolerance = TOLERANCE[y.dtype]
    torch.testing.assert_close(result[flags].double(), wanted[flags], rtol=tolerance, atol=4 * tolerance)
    assert torch.equal(result[~flags].view(torch.uint8), y[~flags].view(torch.uint8))


def assert_matches(y, x, a, b, flags, rows=None):
    """Both steps match plain torch; `rows` are the flags in another type."""
    rows = flags if rows is None else rows
    low = shrink(x, a, rows)
    assert low.dtype == torch.float32
    wanted = EXACT.shrink(x.double(), a.double(), rows)
    torch.testing.assert_close(low[flags].double(), wanted[flags], rtol=1e-5, atol=1e-5)
    assert not low[~flags].any()
    assert_adds(y, x, a, b, flags, lambda out: expand(out, low, b, rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "depth", "rank", "width"), [(1, 16, 1, 1), (17, 130, 8, 65), (33, 256, 100, 300)]
)
def test_matches_plain_torch_and_leaves_other_rows_alone(
    rows, depth, rank, width, dtype, device, monkeypatch
):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    assert_matches(*make_inputs(rows, depth, rank, width, dtype, device))


def test_the_published_rank_and_depth(device):
    inputs = make_inputs(3, 4096, 128, 100, torch.bfloat16, device)
    assert_matches(*inputs, inputs[-1].to(torch.int32))


def test_the_widest_rank(device):
    assert_matches(*make_inputs(2, 20, 256, 70, torch.float32, device))


def test_all_rows_and_none(device):
    inputs = make_inputs(5, 40, 4, 50, torch.float32, device, chosen=[True] * 5)
    assert_matches(*inputs, inputs[-1].float())
    y, x, a, b, flags = make_inputs(20, 40, 4, 50, torch.float32, device, chosen=[False] * 20)
    assert_matches(y, x, a, b, flags)
    assert shrink(x[:0], a, flags[:0]).shape == (0, 4)
    expand(y[:0], x[:0, :4], b, flags[:0])


def test_padding_that_is_no_number_stays(device):
    y, x, a, b, flags = make_inputs(4, 20, 3, 10, torch.float32, device, chosen=[True, False, True, False])
    strange = torch.tensor([0x7FC12345, -4194303, -(2**31), 2139095041], dtype=torch.int32, device=device)
    y[1, :4] = strange.view(torch.float32)
    out = y.clone()
    expand(out, shrink(x, a, flags), b, flags)
    assert torch.equal(out[1].view(torch.int32), y[1].view(torch.int32))


def test_rows_of_wider_buffers(device):
    y, x, a, b, flags = make_inputs(6, 48, 16, 40, torch.bfloat16, device)
    wide = torch.full((6, 100), torch.nan, dtype=torch.bfloat16, device=device)
    wide[:, 8:48], wide[:, 50:98] = y, x
    expand(wide[:, 8:48], shrink(wide[:, 50:98], a, flags), b, flags)
    assert_adds(y, x, a, b, flags, lambda out: out.copy_(wide[:, 8:48]))
    assert wide[:, :8].isnan().all()
    assert wide[:, 48:50].isnan().all()


def test_a_rows_result_does_not_depend_on_the_rows_beside_it(device):
    y, x, a, b, every = make_inputs(32, 100, 8, 40, torch.float32, device, chosen=[True] * 32)
    flags = torch.zeros(32, dtype=torch.bool, device=device)
    flags[5] = True
    together, alone = y.clone(), y.clone()
    expand(together, shrink(x, a, every), b, every)
    expand(alone, shrink(x, a, flags), b, flags)
    torch.testing.assert_close(alone[5], together[5], rtol=1e-6, atol=1e-6)
    assert torch.equal(alone[:5], y[:5])


def test_two_ranks_with_a_sum_in_between(device):
    y, x, a, b, flags = make_inputs(9, 64, 8, 40, torch.float32, device)
    parts = (slice(0, 32), slice(32, 64))
    low = sum(shrink(x[:, part], a[:, part].contiguous(), flags) for part in parts)
    assert_adds(y, x, a, b, flags, lambda out: expand(out, low, b, flags))


def test_the_product_may_come_out_of_the_projection_itself(device):
    _, x, a, b, flags = make_inputs(9, 64, 8, 40, torch.bfloat16, device)
    weight = torch.randn(40, 64, device=device).bfloat16() / 8
    wide = x.nan_to_num() @ torch.cat([weight, a]).T  # [N, H + r]
    assert_adds(wide[:, :40].clone(), x, a, b, flags, lambda out: expand(out, wide[:, 40:], b, flags))


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 4 GB that only a CPU leaves untouched")
    far = 2**30 + 4096  # fits into 32 bits, the third row's place does not
    storage = torch.empty(2 * far + 100, dtype=torch.bfloat16)  # memory that nobody touches costs nothing
    y, x, a, b, flags = make_inputs(3, 32, 4, 40, torch.bfloat16, chosen=[True, False, True])
    outputs, inputs = (storage.as_strided((3, width), (far, 1), at) for width, at in ((40, 0), (32, 60)))
    outputs.copy_(y)
    inputs.copy_(x)
    expand(outputs, shrink(inputs, a, flags), b, flags)
    assert_adds(y, x, a, b, flags, lambda out: out.copy_(outputs))


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_shape_matches_plain_torch(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    depth, rank, width = (data.draw(st.integers(1, limit)) for limit in (140, 40, 70))
    chosen = data.draw(st.lists(st.booleans(), min_size=1, max_size=20))
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    assert_matches(*make_inputs(len(chosen), depth, rank, width, dtype, device, chosen))


ONES, FLAGS = torch.ones(4, 4), torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shrink(ONES, ONES[:, :3], FLAGS), r"shrink: a has shape \(4, 3\), expected \(any, 4\)"),
        (lambda: shrink(ONES, ONES.half(), FLAGS), "a is float16, expected float32"),
        (lambda: shrink(ONES, torch.ones(4, 8).T[:4], FLAGS), "shrink: a has stride|a has shape"),
        (lambda: shrink(ONES, torch.ones(300, 4), FLAGS), "the rank is 300"),
        (lambda: shrink(ONES, ONES, ONES[0].double()), "rows is float64, expected bool"),
        (lambda: expand(ONES, ONES, ONES[:2], FLAGS), r"b has shape \(2, 4\), expected \(4, 4\)"),
        (lambda: expand(ONES, ONES[:, :0], ONES[:, :0], FLAGS), "expand: the rank is 0, expected 1 to 256"),
        (lambda: expand(ONES, ONES[:2], ONES, FLAGS), r"low has shape \(2, 4\)"),
        (lambda: expand(ONES, ONES, ONES, FLAGS[:3]), r"rows has shape \(3,\), expected \(4\)"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
