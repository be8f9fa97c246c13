import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.pick import pick
from nemotron_diffusion_kernels.pick import triton as kernels
from nemotron_diffusion_kernels.pick.reference import pick_reference
from nemotron_diffusion_plugin.rules.pick import pick as plugin_pick

# NumPy, behind the interpreter, warns where a row is infinite; the GPU does not
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

MASK = 100
INF = torch.inf


def assert_matches(logits, mask_token_id, with_second=True):
    """The kernel picks the reference's tokens, with its float64 confidences; the logits stay as they are."""
    before = logits.clone()
    result = pick(logits, mask_token_id, with_second=with_second, backend="triton")
    wanted = pick_reference(before.cpu(), mask_token_id, with_second, compute_dtype=torch.float64)
    assert torch.equal(logits.view(torch.uint8), before.view(torch.uint8))
    for got, want in zip(result, wanted, strict=True):
        if want is None:
            assert got is None
        elif want.dtype == torch.int64:
            assert torch.equal(got.cpu(), want)
        else:
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.cpu().double(), want, rtol=2e-6, atol=1e-30, equal_nan=True)


def random_logits(rows, vocabulary, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=generator) * 5).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [2, 3, 4095, 4096, 4097, 9000])
def test_matches_the_reference(dtype, vocabulary, device):
    logits = random_logits(3, vocabulary, dtype).to(device)
    for mask_token_id in (None, 0, vocabulary - 1):
        assert_matches(logits, mask_token_id, with_second=vocabulary > 2)


def test_a_full_vocabulary(device):
    logits = random_logits(2, 131072, torch.bfloat16).to(device)
    logits[:, MASK] = 60.0
    assert_matches(logits, MASK)


def test_the_mask_id_is_never_picked_and_stays_in_the_denominator(device):
    logits = torch.zeros(1, 5000, device=device)
    logits[0, [MASK, 4500, 30]] = torch.tensor([9.0, 5.0, 4.0], device=device)
    result = pick(logits, MASK, with_second=True, backend="triton")
    normalizer = torch.tensor([9.0, 5.0, 4.0]).exp().sum() + 4997
    assert (result.tokens.item(), result.second_tokens.item()) == (4500, 30)
    assert result.confidence.item() == pytest.approx((torch.tensor(5.0).exp() / normalizer).item())
    assert result.second_confidence.item() == pytest.approx((torch.tensor(4.0).exp() / normalizer).item())


@pytest.mark.parametrize(
    ("equal", "mask_token_id", "tokens"),
    [
        ([4097, 7, 4095], None, (7, 4095)),
        ([4097, 7, 4095], 7, (4095, 4097)),
        ([5, 6], 5, (6, 0)),
        (list(range(9000)), 0, (1, 2)),
        ([8999, 8998], 8999, (8998, 0)),
    ],
)
def test_ties_go_to_the_lowest_id(equal, mask_token_id, tokens, device):
    logits = torch.zeros(1, 9000, dtype=torch.bfloat16, device=device)
    logits[0, equal] = 3.0
    result = pick(logits, mask_token_id, with_second=True, backend="triton")
    assert (result.tokens.item(), result.second_tokens.item()) == tokens
    assert_matches(logits, mask_token_id)


def test_rows_with_infinite_and_undefined_logits(device):
    logits = random_logits(7, 9000, torch.float32).to(device)
    logits[0] = -INF
    logits[1, :8000] = -INF
    logits[2] = -INF
    logits[2, MASK] = 1.0
    logits[3] = -INF
    logits[3, 5000] = 2.0
    logits[4, 17] = INF
    logits[5, 4] = torch.nan
    logits[6] = torch.nan
    assert_matches(logits, MASK)
    result = pick(logits, MASK, backend="triton")
    assert result.confidence[2].item() == 0.0
    assert result.confidence[3].item() == 1.0
    assert result.confidence[[0, 4, 5, 6]].isnan().all()
    assert ((result.tokens >= 0) & (result.tokens < 9000)).all()


def test_large_logits_do_not_overflow(device):
    logits = random_logits(2, 5000, torch.float32).to(device) + torch.tensor([[3e4], [-3e4]], device=device)
    assert_matches(logits, MASK)


def test_rows_of_a_wider_buffer(device):
    buffer = torch.full((6, 6000), torch.nan, device=device)
    buffer[1::2, 500:5000] = random_logits(3, 4500, torch.float32).to(device)
    view = buffer[1::2, 500:5000]
    for row, alone in zip(zip(*pick(view, MASK, backend="triton")[:2], strict=True), view, strict=True):
        assert torch.equal(torch.stack([part.double() for part in row]), alone_pick(alone))


def alone_pick(row):
    tokens, confidence, *_ = pick(row.clone()[None], MASK, backend="triton")
    return torch.stack([tokens[0].double(), confidence[0].double()])


def test_no_rows(device):
    result = pick(torch.empty(0, 5000, device=device), MASK, with_second=True, backend="triton")
    assert [part.shape for part in result] == [(0,)] * 4
    assert [part.shape for part in pick(torch.empty(0, 10), None, backend="torch")[:2]] == [(0,)] * 2


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 4 GB that only a CPU leaves untouched")
    far = 2**31 + 8192
    storage = torch.empty(far + 5000, dtype=torch.bfloat16)  # memory that nobody touches costs nothing
    logits = storage.as_strided((2, 5000), (far, 1))
    logits.copy_(random_logits(2, 5000, torch.bfloat16))
    assert_matches(logits, MASK)


def test_every_output_is_written(device, monkeypatch):
    empty = torch.Tensor.new_empty

    def poisoned(self, *arguments, **options):
        made = empty(self, *arguments, **options)
        return made.fill_(torch.nan if made.is_floating_point() else -7)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_matches(random_logits(3, 9000, torch.bfloat16).to(device), MASK)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_row_matches_the_reference_and_the_plugin(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = data.draw(st.integers(3, 40))
    kernels_tile, kernels._TILE = kernels._TILE, 16
    try:
        values = st.sampled_from([-INF, -2.0, -0.5, 0.0, 0.5, 1.0, 30.0])
        rows = st.lists(values, min_size=vocabulary, max_size=vocabulary)
        logits = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=3)), device=device)
        mask_token_id = data.draw(st.none() | st.integers(0, vocabulary - 1))
        assert_matches(logits, mask_token_id)
        tokens, confidence = plugin_pick(logits, mask_token_id)
        result = pick(logits, mask_token_id, backend="triton")
        assert torch.equal(result.tokens, tokens)
        torch.testing.assert_close(result.confidence, confidence, rtol=1e-5, atol=1e-12, equal_nan=True)
    finally:
        kernels._TILE = kernels_tile


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(5), {}, r"logits has shape \(5,\), expected \(any, any\)"),
        (
            torch.zeros(1, 5, dtype=torch.int64),
            {},
            "logits is int64, expected float32 or bfloat16 or float16",
        ),
        (torch.zeros(5, 9).T, {}, "stride 9 in its last dimension, expected 1"),
        (torch.zeros(1, 5), {"mask_token_id": 5}, "mask_token_id is 5, expected 0 to 4 or None"),
        (torch.zeros(1, 5), {"mask_token_id": -1}, "mask_token_id is -1"),
        (torch.zeros(1, 1), {"mask_token_id": 0}, "0 ids to pick from, expected at least 1"),
        (
            torch.zeros(1, 2),
            {"mask_token_id": 0, "with_second": True},
            "1 ids to pick from, expected at least 2",
        ),
        (torch.zeros(1, 5), {"backend": "cpu"}, "got backend 'cpu'"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(logits, options, message):
    with pytest.raises(ValueError, match=message):
        pick(logits, **{"mask_token_id": 1, **options})
