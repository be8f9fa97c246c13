import dataclasses

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.block_attention import Tiling, block_attention, default_tiling
from nemotron_diffusion_kernels.block_attention import triton as kernels
from nemotron_diffusion_plugin.reference import masks
from tests.kernels.block_attention.paged import SMALL, assert_matches, attend, expected, make_batch


@pytest.mark.parametrize(
    ("head_dim", "page_size", "dtype", "heads"),
    [
        (32, 1, torch.float32, (4, 2)),
        (64, 16, torch.bfloat16, (8, 2)),
        (96, 32, torch.float16, (6, 2)),
        (128, 64, torch.bfloat16, (4, 1)),
        (96, 24, torch.float32, (3, 3)),
        (32, 7, torch.bfloat16, (7, 1)),
    ],
)
def test_matches_the_reference(head_dim, page_size, dtype, heads, device):
    batch = make_batch(
        [5, 1, 0, 3],
        [70, 33, 40, 3],
        [True, True, False, False],
        heads=heads,
        head_dim=head_dim,
        page_size=page_size,
        dtype=dtype,
        spare_rows=2,
        device=device,
    )
    assert_matches(batch, attend(batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matches_the_reference_with_the_default_tiling(dtype, device):
    batch = make_batch([32, 7], [190, 600], [False, True], heads=(4, 1), dtype=dtype, device=device)
    assert_matches(batch, attend(batch, tiling=None))


@pytest.mark.parametrize("query_length", [1, 31, 64])
def test_a_block_alone_in_its_cache(query_length, device):
    for is_causal in (True, False):
        batch = make_batch([query_length], [query_length], [is_causal], heads=(2, 1), device=device)
        assert_matches(batch, attend(batch))


def test_lengths_around_tiles_and_splits(device):
    lengths = [15, 16, 17, 31, 32, 33, 63, 64, 65]
    kinds = [index % 2 == 0 for index in range(len(lengths))]
    batch = make_batch([3] * len(lengths), lengths, kinds, heads=(2, 1), device=device)
    assert_matches(batch, attend(batch))


def test_more_splits_than_are_merged_at_a_time(device):
    tiling = Tiling(rows=16, keys=16, split_length=16, warps=4, stages=2)
    batch = make_batch([2, 3], [16 * 16 + 1, 16 * 33], [True, False], heads=(2, 1), device=device)
    assert_matches(batch, attend(batch, tiling))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, behind the interpreter
def test_tiles_that_no_row_of_a_program_sees_are_skipped(device):
    batch = make_batch([64], [64], [True], heads=(1, 1), device=device)
    for pages in (batch.key_pages, batch.value_pages):
        pages[batch.page_table[0, 2:].long()] = torch.nan
    result = attend(batch, Tiling(rows=32, keys=16, split_length=32, warps=4, stages=2))
    assert result[:32].isfinite().all()
    assert result[32:].isnan().all()


def test_a_block_across_a_split(device):
    for is_causal in (True, False):
        batch = make_batch([16], [40], [is_causal], heads=(2, 1), device=device)
        assert_matches(batch, attend(batch))


def test_empty_requests_and_empty_batches(device):
    batch = make_batch([0, 2, 0, 0], [0, 5, 9, 0], [True] * 4, spare_rows=1, device=device)
    assert_matches(batch, attend(batch))
    nothing = make_batch([0, 0], [0, 8], [True, False], spare_rows=3, device=device)
    assert attend(nothing).isnan().all()
    no_rows = make_batch([0], [8], [True], device=device)
    assert attend(no_rows).shape == (0, 4, 32)


def test_a_row_that_sees_nothing_is_zero(device):
    batch = make_batch([2, 3], [0, 3], [False, True], device=device)
    result = attend(batch)
    assert (result[:2] == 0).all()
    assert_matches(batch, result)
    assert (attend(batch, max_seq_length=0) == 0).all()


def test_views_with_any_strides(device):
    batch = make_batch([4, 2], [37, 20], [True, False], device=device)
    packed = torch.stack(
        [batch.key_pages, batch.value_pages], dim=1
    )  # [pages, 2, page_size, heads, head_dim]
    by_head = torch.stack([batch.key_pages, batch.value_pages]).transpose(2, 3).contiguous().transpose(2, 3)
    fused = torch.cat([batch.query, torch.full_like(batch.query, torch.nan)], dim=1)
    out = torch.full((batch.rows, 9, 32), torch.nan, device=device)
    wide_table = torch.cat([batch.page_table, torch.full_like(batch.page_table, 10**6)], dim=1)
    plain = attend(batch)
    for keys, values in ((packed[:, 0], packed[:, 1]), (by_head[0], by_head[1])):
        view = dataclasses.replace(
            batch, query=fused[:, :4], key_pages=keys, value_pages=values, page_table=wide_table
        )
        assert torch.equal(attend(view, out=out[:, 2:6]), plain)
    assert out[:, :2].isnan().all()
    assert out[:, 6:].isnan().all()


def test_integer_types_of_the_indices(device):
    batch = make_batch([4, 2], [37, 20], [True, False], device=device)
    wide = dataclasses.replace(
        batch,
        page_table=batch.page_table.long(),
        query_start_loc=batch.query_start_loc.long(),
        seq_lens=batch.seq_lens.long(),
        is_causal=batch.is_causal.int() * 7,
    )
    assert torch.equal(attend(wide), attend(batch))


@pytest.mark.parametrize("cache_dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_cache(cache_dtype, device):
    batch = make_batch(
        [4, 2], [37, 20], [True, False], dtype=torch.bfloat16, cache_dtype=cache_dtype, device=device
    )
    scales = {"scale": 0.2, "key_scale": 0.7, "value_scale": 1.5}
    assert_matches(batch, attend(batch, **scales), **scales)


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 4 GB that only a CPU leaves untouched")
    batch = make_batch([3], [45], [False], dtype=torch.bfloat16, page_size=16, device=device)
    far = 2**30 + 4096  # fits into 32 bits, the third page's place does not
    strides = (far, *batch.key_pages.stride()[1:])
    storage = torch.empty(
        far * 2 + 4096, dtype=torch.bfloat16
    )  # pages of the machine that nobody touches cost nothing
    keys, values = (
        storage.as_strided((3, *batch.key_pages.shape[1:]), strides, offset) for offset in (0, 2048)
    )
    keys.copy_(batch.key_pages[batch.page_table[0].long()])
    values.copy_(batch.value_pages[batch.page_table[0].long()])
    table = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    view = dataclasses.replace(batch, key_pages=keys, value_pages=values, page_table=table)
    assert torch.equal(attend(view), attend(batch))


def decode_alone(batch, request, row):
    """The batch of one query row, decoded with the cache that ends with it."""
    start, end = batch.query_start_loc[request : request + 2].tolist()
    length = int(batch.seq_lens[request]) - (end - start) + row + 1
    device = batch.query.device
    return dataclasses.replace(
        batch,
        query=batch.query[start + row : start + row + 1],
        page_table=batch.page_table[request : request + 1],
        query_start_loc=torch.tensor([0, 1], dtype=torch.int32, device=device),
        seq_lens=torch.tensor([length], dtype=torch.int32, device=device),
        is_causal=torch.tensor([True], device=device),
    )


@pytest.fixture
def uniform_products(monkeypatch, device):
    """Products in the interpreter whose rows do not depend on their place in the tile.

    A GPU's matrix units treat all rows of a tile alike; the BLAS library behind the interpreter does not.
    """

    def matmul(left, right, dtype=numpy.float32):
        product = numpy.zeros((left.shape[0], right.shape[1]), dtype)
        for column, row in zip(left.T.astype(dtype), right.astype(dtype), strict=True):
            product += column[:, None] * row[None]
        return product

    if device.type == "cpu":
        monkeypatch.setattr(numpy, "matmul", matmul)


@pytest.mark.usefixtures("uniform_products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_verify_row_is_bit_equal_to_the_row_decoded_alone(dtype, device):
    batch = make_batch(
        [8, 5, 8], [36, 70, 8], [True, False, True], heads=(4, 2), head_dim=64, dtype=dtype, device=device
    )
    together = attend(batch)
    for request, first in ((0, 0), (2, 13)):
        for row in range(8):
            alone = attend(decode_alone(batch, request, row), max_query_length=8)
            assert torch.equal(alone[0], together[first + row])


@pytest.mark.usefixtures("uniform_products")
def test_the_default_tiling_keeps_bits_for_one_maximal_query_length(device):
    batch = make_batch([8], [30], [True], heads=(4, 1), dtype=torch.bfloat16, device=device)
    together = attend(batch, tiling=None)
    for row in range(8):
        alone = attend(decode_alone(batch, 0, row), tiling=None, max_query_length=8)
        assert torch.equal(alone[0], together[row])


def test_a_row_does_not_depend_on_its_batch_nor_on_where_its_pages_lie(device):
    lengths = {"query_lengths": [6], "seq_lengths": [41], "is_causal": [False]}
    alone = make_batch(**lengths, device=device)
    result = attend(alone)
    table, token = alone.page_table[0].long(), torch.arange(41, device=device)
    for page_size in (1, 8, 64):
        batch = make_batch(
            [2, 6, 5], [300, 41, 5], [True, False, False], page_size=page_size, seed=9, device=device
        )
        batch.query[2:8] = alone.query
        for target, source in (
            (batch.key_pages, alone.key_pages),
            (batch.value_pages, alone.value_pages),
        ):
            content = source[table[token // 16], token % 16]
            target[batch.page_table[1].long()[token // page_size], token % page_size] = content
        assert torch.equal(attend(batch, max_query_length=9)[2:8], result)


def test_the_grid_does_not_depend_on_lengths(device, monkeypatch):
    grids = []

    class Recorder:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *arguments, **options: None

    monkeypatch.setattr(kernels, "_split_kernel", Recorder())
    monkeypatch.setattr(kernels, "_merge_kernel", Recorder())
    for queries, lengths in (([1, 0], [3, 0]), ([8, 8], [100, 64])):
        attend(
            make_batch(queries, lengths, [True, False], page_size=128), max_query_length=8, max_seq_length=100
        )
    assert grids[:2] == grids[2:] == [(4, 2, 2), (8, 4, 2)]


def test_what_exceeds_the_announced_bounds_is_left_out(device):
    batch = make_batch([6], [50], [False], device=device)
    result = attend(batch, max_query_length=4)
    assert result[4:].isnan().all()
    assert torch.equal(result[:4], attend(batch)[:4])
    shorter = dataclasses.replace(batch, seq_lens=batch.seq_lens - 10)
    assert torch.equal(attend(batch, max_seq_length=40), attend(shorter))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_batch_matches_the_reference(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = data.draw(st.integers(1, 3))
    queries = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    prefixes = data.draw(st.lists(st.integers(0, 70), min_size=count, max_size=count))
    kv_heads, group = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 5))
    batch = make_batch(
        queries,
        [query + prefix for query, prefix in zip(queries, prefixes, strict=True)],
        data.draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        heads=(kv_heads * group, kv_heads),
        page_size=data.draw(st.sampled_from([1, 3, 16, 32])),
        dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16])),
        seed=data.draw(st.integers(0, 2**31)),
        device=device,
    )
    tiling = data.draw(st.sampled_from([SMALL, Tiling(32, 16, 48, 4, 2), Tiling(16, 32, 64, 4, 2)]))
    assert_matches(batch, attend(batch, tiling))


def visible_attention(batch, visible):
    """Attention of the only request of a batch under an explicit mask, in float64."""
    length, page_size = int(batch.seq_lens[0]), batch.key_pages.shape[1]
    group = batch.query.shape[1] // batch.key_pages.shape[2]
    token = torch.arange(length)
    page = batch.page_table[0].long().cpu()[token // page_size]
    keys, values = (
        part.cpu().double()[page, token % page_size].repeat_interleave(group, dim=1).transpose(0, 1)
        for part in (batch.key_pages, batch.value_pages)
    )
    query = batch.query.cpu().double().transpose(0, 1)
    attended = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
    return attended.transpose(0, 1)


@pytest.mark.parametrize("cached", [0, 21])
def test_the_two_views_are_the_masks_of_the_reference_decoder(cached, device):
    for is_causal, mask in ((True, masks.causal), (False, masks.bidirectional)):
        batch = make_batch([12], [cached + 12], [is_causal], heads=(2, 1), device=device)
        wanted = visible_attention(batch, mask(12, cached))
        torch.testing.assert_close(attend(batch).cpu().double(), wanted, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(expected(batch), wanted)


BROKEN = {
    "query has shape": {"query": torch.zeros(3, 32)},
    "query is int64": {"query": torch.zeros(3, 4, 32, dtype=torch.int64)},
    "head_dim is 40": {"query": torch.zeros(3, 4, 40)},
    "key_pages has shape": {"key_pages": torch.zeros(4, 16, 2, 64)},
    "key_pages is bfloat16, expected float32 or float8": {
        "key_pages": torch.zeros(4, 16, 2, 32, dtype=torch.bfloat16)
    },
    "value_pages has shape": {"value_pages": torch.zeros(4, 16, 1, 32)},
    "5 query heads": {"query": torch.zeros(3, 5, 32)},
    "page_table is float32": {"page_table": torch.zeros(1, 3)},
    r"query_start_loc has shape \(1,\), expected \(2\)": {
        "query_start_loc": torch.zeros(1, dtype=torch.int32)
    },
    "seq_lens has shape": {"seq_lens": torch.zeros(1, 1, dtype=torch.int32)},
    "is_causal has shape": {"is_causal": torch.zeros(2, dtype=torch.bool)},
    "stride 2 in its last dimension": {"query": torch.zeros(3, 4, 64)[:, :, ::2]},
    "max_query_length is 0": {"max_query_length": 0},
    "max_query_length is 65, expected 1 to 64": {"max_query_length": 65},
    "max_seq_length is 999, expected 0 to 48": {"max_seq_length": 999},
    "out is float16": {"out": torch.zeros(3, 4, 32, dtype=torch.float16)},
}


@pytest.mark.parametrize("message", BROKEN)
def test_wrong_arguments_say_what_is_wrong(message):
    batch = make_batch([3], [40], [True])
    arguments = {**vars(batch), "max_query_length": 3, "max_seq_length": 40, **BROKEN[message]}
    with pytest.raises(ValueError, match=message):
        block_attention(**arguments)


def test_a_kernel_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    batch = make_batch([3], [40], [True])
    with pytest.raises(
        RuntimeError, match=r"block_attention: .* needs tensors on a GPU, got cpu; set TRITON_IN"
    ):
        block_attention(*batch.tensors, max_query_length=3, max_seq_length=40)


def test_tilings_are_checked():
    with pytest.raises(ValueError, match="rows is 24, expected a power of two from 16 on"):
        Tiling(24, 16, 32, 4, 2)
    with pytest.raises(ValueError, match="keys is 8"):
        Tiling(16, 8, 32, 4, 2)
    with pytest.raises(ValueError, match="split_length is 40, expected a positive multiple of keys"):
        Tiling(16, 16, 40, 4, 2)


@pytest.mark.parametrize(("length", "group", "rows"), [(1, 4, 16), (32, 4, 128), (64, 4, 128), (7, 3, 32)])
def test_a_block_of_32_over_4_heads_fills_one_tile(length, group, rows):
    assert default_tiling(length, group, bytes_per_value=2).rows == rows
