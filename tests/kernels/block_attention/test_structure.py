import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.block_attention import Form, Structure, Tiling, block_attention
from nemotron_diffusion_plugin.reference import masks
from tests.kernels.block_attention.paged import assert_matches, attend, make_batch

TILING = Tiling(rows=32, keys=16, split_length=32, warps=4, stages=2)


def masked_attention(batch, visible):
    """Attention of the only request of a batch under an explicit mask, in float64."""
    length, group = int(batch.seq_lens[0]), batch.query.shape[1] // batch.key_pages.shape[2]
    token = torch.arange(length)
    page_size = batch.key_pages.shape[1]
    page = batch.page_table[0].long().cpu()[token // page_size]
    keys, values = (
        part.cpu().double()[page, token % page_size].repeat_interleave(group, dim=1).transpose(0, 1)
        for part in (batch.key_pages, batch.value_pages)
    )
    query = batch.query.cpu().double().transpose(0, 1)
    attended = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
    return attended.transpose(0, 1)


@pytest.mark.parametrize("cached", [0, 21])
def test_the_grouped_form_is_the_mask_of_quadratic_self_speculation(cached, device):
    drafts = 5
    new = drafts * (drafts + 1)
    batch = make_batch([new], [cached + new], [False], heads=(2, 1), device=device)
    structure = Structure(Form.GROUPED, drafts)
    result = attend(batch, TILING, structure=structure)
    wanted = masked_attention(batch, masks.quadratic(drafts, cached))
    torch.testing.assert_close(result.cpu().double(), wanted, rtol=2e-6, atol=2e-6)
    assert_matches(batch, result, structure=structure)


@pytest.mark.parametrize(("new", "block_size"), [(40, 8), (13, 5), (9, 1), (6, 40)])
def test_the_block_causal_form(new, block_size, device):
    batch = make_batch([new], [19 + new], [False], heads=(2, 1), device=device)
    structure = Structure(Form.BLOCK_CAUSAL, block_size)
    result = attend(batch, TILING, structure=structure)
    index, key = torch.arange(new)[:, None], torch.arange(-19, new)[None]
    visible = index // block_size >= torch.div(key, block_size, rounding_mode="floor")
    torch.testing.assert_close(result.cpu().double(), masked_attention(batch, visible), rtol=2e-6, atol=2e-6)
    assert_matches(batch, result, structure=structure)


def test_causal_requests_beside_structured_ones(device):
    batch = make_batch(
        [12, 12, 0, 7], [30, 33, 4, 7], [True, False, False, True], heads=(2, 1), device=device
    )
    plain = attend(batch, TILING)
    for form in (Form.BLOCK_CAUSAL, Form.GROUPED):
        structure = Structure(form, 3)
        result = attend(batch, TILING, structure=structure)
        assert_matches(batch, result, structure=structure)
        assert torch.equal(result[:12], plain[:12])
        assert torch.equal(result[24:], plain[24:])


def test_blocks_of_one_are_causal_and_one_large_block_is_bidirectional(device):
    for block_size, is_causal in ((1, True), (20, False)):
        batch = make_batch([11], [40], [False], heads=(2, 1), device=device)
        structured = attend(batch, structure=Structure(Form.BLOCK_CAUSAL, block_size))
        kind = torch.tensor([is_causal], device=device)
        assert torch.equal(structured, attend(dataclasses.replace(batch, is_causal=kind)))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, behind the interpreter
def test_tiles_that_no_row_of_a_program_sees_are_skipped(device):
    batch = make_batch([64], [64], [False], heads=(1, 1), device=device)
    for pages in (batch.key_pages, batch.value_pages):
        pages[batch.page_table[0, 2:].long()] = torch.nan
    structure = Structure(Form.BLOCK_CAUSAL, 32)
    result = attend(batch, TILING, structure=structure)
    assert result[:32].isfinite().all()
    assert result[32:].isnan().all()


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_batch_matches_the_reference(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = data.draw(st.integers(1, 2))
    queries = data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    prefixes = data.draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    batch = make_batch(
        queries,
        [query + prefix for query, prefix in zip(queries, prefixes, strict=True)],
        data.draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        heads=(data.draw(st.integers(1, 3)), 1),
        page_size=data.draw(st.sampled_from([1, 16])),
        seed=data.draw(st.integers(0, 2**31)),
        device=device,
    )
    form = data.draw(st.sampled_from([Form.BLOCK_CAUSAL, Form.GROUPED]))
    structure = Structure(form, data.draw(st.integers(1, 9)))
    assert_matches(batch, attend(batch, TILING, structure=structure), structure=structure)


def test_torch_knows_the_structures():
    batch = make_batch([12], [20], [False])
    structure = Structure(Form.GROUPED, 3)
    result = block_attention(*batch.tensors, max_query_length=12, max_seq_length=20, structure=structure)
    torch.testing.assert_close(result, attend(batch, structure=structure), rtol=1e-5, atol=1e-5)


def test_a_block_size_below_one_is_refused():
    with pytest.raises(ValueError, match="block_size is 0, expected at least 1"):
        Structure(Form.GROUPED, 0)
