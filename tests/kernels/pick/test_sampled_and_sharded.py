import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.noise import RowNoise
from nemotron_diffusion_kernels.pick import Sampling, merge_shards, pick, pick_shard
from nemotron_diffusion_kernels.pick import triton as kernels
from nemotron_diffusion_plugin.rules.noise import uniform
from nemotron_diffusion_plugin.rules.pick import pick as plugin_pick
from tests.kernels.chi_square import chi_square

# NumPy, behind the interpreter, warns where a row is infinite; the GPU does not
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

MASK = 100
INF = torch.inf


def random_logits(rows, vocabulary, dtype=torch.float32):
    return (torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)


def sampling(rows, temperature=0.8, step=0):
    number = torch.arange(rows)
    temperature = torch.as_tensor(temperature, dtype=torch.float32).expand(rows).contiguous()
    return Sampling(temperature, RowNoise(number + 11, number * 7 + 5, torch.full_like(number, step)))


def on(device, drawn):
    if drawn is None:
        return None
    return Sampling(drawn.temperature.to(device), RowNoise(*(part.to(device) for part in drawn.noise)))


def assert_same(result, wanted, exact=False):
    for got, want in zip(result, wanted, strict=True):
        if want is None or want.dtype == torch.int64:
            assert got is want or torch.equal(got.cpu(), want.cpu())
        else:
            assert got.dtype == torch.float32
            rtol = 0.0 if exact else 2e-6
            torch.testing.assert_close(got.cpu(), want.cpu(), rtol=rtol, atol=1e-30, equal_nan=True)


def poison(monkeypatch):
    """Fill every output with NaN, or an id that does not exist, before the kernels run."""
    empty = torch.Tensor.new_empty

    def poisoned(self, *arguments, **options):
        made = empty(self, *arguments, **options)
        return made.fill_(torch.nan if made.is_floating_point() else -7)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


def sharded(logits, bounds, mask_token_id, drawn=None, with_second=True, backend="triton"):
    partials = [
        pick_shard(
            logits[:, start:end],
            mask_token_id,
            start,
            with_second=with_second,
            sampling=drawn,
            backend=backend,
        )
        for start, end in itertools.pairwise(bounds)
    ]
    return merge_shards(torch.stack(partials), with_second=with_second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_matches_the_reference_and_the_plugin(dtype, device, monkeypatch):
    poison(monkeypatch)
    logits, drawn = random_logits(4, 4101, dtype), sampling(4, [0.0, 0.3, 1.0, 4.0])
    before = logits.clone()
    for mask_token_id in (None, MASK, 4100):
        result = pick(
            logits.to(device), mask_token_id, with_second=True, sampling=on(device, drawn), backend="triton"
        )
        wanted = pick(before, mask_token_id, with_second=True, sampling=drawn, backend="torch")
        assert_same(result, wanted)
        tokens, confidence = plugin_pick(
            before,
            mask_token_id,
            drawn.temperature,
            lambda rows: uniform(*(n[rows] for n in drawn.noise), 4101),
        )
        assert torch.equal(result.tokens.cpu(), tokens)
        torch.testing.assert_close(result.confidence.cpu(), confidence, rtol=1e-5, atol=1e-12)
    assert torch.equal(logits, before)


def test_temperature_zero_takes_the_most_likely(device):
    logits = random_logits(3, 500).to(device)
    drawn = pick(logits, MASK, with_second=True, sampling=on(device, sampling(3, 0.0)), backend="triton")
    assert_same(drawn, pick(logits, MASK, with_second=True, backend="triton"), exact=True)


def test_a_row_draws_the_same_alone_and_in_a_batch(device):
    logits, drawn = random_logits(4, 5000).to(device), on(device, sampling(4))
    together = pick(logits, MASK, sampling=drawn, backend="triton")
    alone = Sampling(drawn.temperature[2:3], RowNoise(*(part[2:3] for part in drawn.noise)))
    assert_same(
        pick(logits[2:3], MASK, sampling=alone, backend="triton")[:2],
        [part[2:3] for part in together[:2]],
        True,
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_draws_are_distributed_as_the_softmax(temperature):
    count, logits = 20000, torch.tensor([1.0, -0.5, 3.0, 0.2, 1.7, 0.9])
    tokens, _, *_ = pick(logits.expand(count, 6), 2, sampling=sampling(count, temperature), backend="torch")
    wanted = torch.softmax((logits / temperature).index_fill(0, torch.tensor([2]), -INF), 0)
    assert chi_square(tokens, wanted) < 5
    assert chi_square(tokens, torch.softmax(logits / temperature, 0)) > 50  # the mask id is left out
    warm = torch.softmax((logits / (temperature * 1.15)).index_fill(0, torch.tensor([2]), -INF), 0)
    assert chi_square(tokens, warm) > 8


def test_the_second_draw_is_distributed_as_a_draw_without_the_first():
    count, p = 20000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = pick(
        p.log().expand(count, 4), None, with_second=True, sampling=sampling(count, 1.0), backend="torch"
    )
    rest = p.index_fill(0, torch.tensor([0]), 0.0)
    assert chi_square(drawn.second_tokens[drawn.tokens == 0], rest / rest.sum()) < 5


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("drawn", [None, sampling(3)])
@pytest.mark.parametrize(
    "bounds", [[0, 9000], [0, 4500, 9000], [0, 0, 4097, 4097, 9000], [0, 100, 101, 8999, 9000]]
)
def test_shards_pick_what_the_whole_row_picks(bounds, drawn, backend, device, monkeypatch):
    poison(monkeypatch)
    logits, drawn = random_logits(3, 9000, torch.bfloat16).to(device), on(device, drawn)
    wanted = pick(logits, MASK, with_second=True, sampling=drawn, backend="torch")
    assert_same(sharded(logits, bounds, MASK, drawn, backend=backend), wanted)
    assert_same(
        sharded(logits, bounds, None, drawn, with_second=False, backend=backend),
        pick(logits, None, sampling=drawn, backend="torch"),
    )


@pytest.mark.parametrize("columns", [5000, 8192])
@pytest.mark.parametrize("mask_token_id", [0, 4100, 4999, 6000])
def test_the_mask_id_counts_in_the_highest_logit(columns, mask_token_id, device):
    """Where it is one of the shard's; so high that the sum is finite only when shifted by it."""
    logits = torch.zeros(1, columns, device=device)
    is_here = mask_token_id < columns
    if is_here:
        logits[0, mask_token_id] = 200.0
    score, token, *_, highest, total = pick_shard(logits, mask_token_id + 300, 300, backend="triton")[
        0
    ].tolist()
    assert (score, token) == (0.0, 301.0 if mask_token_id == 0 else 300.0)
    assert (highest, total) == ((200.0, 1.0) if is_here else (0.0, float(columns)))


def test_ties_over_shards_go_to_the_lowest_id_in_any_order(device):
    logits = torch.zeros(2, 40, dtype=torch.float16, device=device)
    logits[0, [8, 13, 39]] = 2.0
    partials = torch.stack(
        [
            pick_shard(logits[:, at : at + 10], 8, at, with_second=True, backend="triton")
            for at in (30, 10, 0, 20)
        ]
    )
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        result = merge_shards(partials[order], with_second=True)
        assert result.tokens.tolist() == [13, 0]
        assert result.second_tokens.tolist() == [39, 1]


def test_shards_with_infinite_and_undefined_logits(device):
    logits = random_logits(5, 60).to(device)
    logits[0] = -INF
    logits[1, :40] = -INF
    logits[2, 45] = INF
    logits[3, 5] = torch.nan
    logits[4] = torch.nan
    wanted = pick(logits, 7, with_second=True, backend="torch")
    for backend in ("torch", "triton"):
        assert_same(sharded(logits, [0, 20, 40, 60], 7, backend=backend), wanted)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_row_over_any_shards(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = data.draw(st.integers(3, 40))
    values = st.lists(st.sampled_from([-INF, -2.0, 0.0, 0.5, 30.0]), min_size=vocabulary, max_size=vocabulary)
    logits = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=2)))
    mask_token_id = data.draw(st.none() | st.integers(0, vocabulary - 1))
    cuts = data.draw(st.lists(st.integers(0, vocabulary), max_size=2))
    drawn = (
        sampling(len(logits), data.draw(st.sampled_from([0.0, 0.5, 3.0])))
        if data.draw(st.booleans())
        else None
    )
    wanted = pick(logits, mask_token_id, with_second=True, sampling=drawn, backend="torch")
    tile, kernels._TILE = kernels._TILE, 16
    try:
        logits, drawn = logits.to(device), on(device, drawn)
        assert_same(pick(logits, mask_token_id, with_second=True, sampling=drawn, backend="triton"), wanted)
        assert_same(sharded(logits, [0, *sorted(cuts), vocabulary], mask_token_id, drawn), wanted)
    finally:
        kernels._TILE = tile


def test_no_rows(device):
    empty = torch.empty(0, 50, device=device)
    assert merge_shards(pick_shard(empty, 3, 50, backend="triton")[None]).tokens.shape == (0,)
    assert pick(empty, 3, sampling=on(device, sampling(0)), backend="triton").tokens.shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda row: pick(row, None, sampling=sampling(2)),
            r"pick: temperature has shape \(2,\), expected \(1\)",
        ),
        (
            lambda row: pick(row, None, sampling=Sampling(torch.zeros(1), sampling(2).noise)),
            r"pick: noise.seeds has shape \(2,\)",
        ),
        (lambda row: pick_shard(row, -1, 0), "pick_shard: mask_token_id is -1"),
        (lambda row: pick_shard(row, 3, -5), "vocab_start is -5 for 5 columns"),
        (lambda row: pick_shard(row, 3, 2**31 - 3), "expected ids from 0 to 2147483646"),
        (lambda row: merge_shards(row), "partials has shape"),
        (lambda row: merge_shards(torch.zeros(0, 2, 8).double()), "got no shards"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 5))
