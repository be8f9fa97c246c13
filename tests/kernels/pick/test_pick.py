import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.pick import pick, pick_tokens
from nemotron_diffusion_kernels.pick import triton as kernels
from nemotron_diffusion_plugin.rules.noise import uniform
from nemotron_diffusion_plugin.rules.pick import pick as pick_by_rule
from nemotron_diffusion_plugin.rules.pick import pick_tokens as tokens_by_rule

# NumPy, behind the interpreter, warns where a row is infinite; the GPU does not
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

MASK = 100
INF = torch.inf


def drawn(rows, temperature=0.8, step=0):
    """Temperatures and noise of some rows."""
    number = torch.arange(rows)
    temperature = torch.as_tensor(temperature, dtype=torch.float32).expand(rows).contiguous()
    return temperature, (number + 11, number * 7 + 5, torch.full_like(number, step))


def by_kernel(logits, mask_token_id, sampling=None, operator=pick):
    if sampling is None:
        return operator(logits, mask_token_id)
    temperature, noise = sampling
    return operator(
        logits,
        mask_token_id,
        temperature.to(logits.device),
        tuple(part.to(logits.device) for part in noise),
    )


def assert_matches(logits, mask_token_id, sampling=None):
    """The kernel picks the rule's tokens, with the softmax of float64 or alone; the logits stay as they are."""
    before = logits.clone()
    tokens, confidence = (part.cpu() for part in by_kernel(logits, mask_token_id, sampling))
    assert torch.equal(logits.view(torch.uint8), before.view(torch.uint8))
    rest = ()
    if sampling is not None:
        temperature, noise = sampling
        vocabulary = logits.shape[1]
        rest = (temperature, lambda rows: uniform(*(part[rows] for part in noise), vocabulary))
    wanted, wanted_confidence = pick_by_rule(before.cpu(), mask_token_id, *rest)
    assert torch.equal(tokens, wanted)
    assert torch.equal(by_kernel(logits, mask_token_id, sampling, pick_tokens).cpu(), wanted)
    assert torch.equal(tokens_by_rule(before.cpu(), mask_token_id, *rest), wanted)
    assert confidence.dtype == torch.float32
    exact = before.cpu().double().softmax(dim=1).gather(1, wanted[:, None])[:, 0]
    torch.testing.assert_close(confidence.double(), exact, rtol=2e-6, atol=1e-30, equal_nan=True)
    torch.testing.assert_close(confidence, wanted_confidence, rtol=1e-5, atol=1e-12, equal_nan=True)
    return tokens


def random_logits(rows, vocabulary, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=generator) * 5).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [2, 3, 4095, 4096, 4097, 9000])
def test_matches_the_rule(dtype, vocabulary, device):
    logits = random_logits(3, vocabulary, dtype).to(device)
    for mask_token_id in (None, 0, vocabulary - 1):
        assert_matches(logits, mask_token_id)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_matches_the_rule(dtype, device):
    logits, sampling = random_logits(4, 4101, dtype).to(device), drawn(4, [0.0, 0.3, 1.0, 4.0])
    for mask_token_id in (None, MASK, 4100):
        tokens = assert_matches(logits, mask_token_id, sampling)
    assert not torch.equal(tokens, by_kernel(logits, 4100)[0].cpu())


def test_a_full_vocabulary(device):
    logits = random_logits(2, 131072, torch.bfloat16).to(device)
    logits[:, MASK] = 60.0
    assert_matches(logits, MASK)
    assert_matches(logits[:1], MASK, drawn(1))


def test_temperature_zero_takes_the_most_likely(device):
    logits = random_logits(3, 500).to(device)
    for got, want in zip(by_kernel(logits, MASK, drawn(3, 0.0)), by_kernel(logits, MASK), strict=True):
        assert torch.equal(got, want)


def test_the_mask_id_is_never_picked_and_stays_in_the_denominator(device):
    logits = torch.zeros(1, 5000, device=device)
    logits[0, [MASK, 4500]] = torch.tensor([9.0, 5.0], device=device)
    tokens, confidence = pick(logits, MASK)
    normalizer = torch.tensor([9.0, 5.0]).exp().sum() + 4998
    assert tokens.item() == 4500
    assert confidence.item() == pytest.approx((torch.tensor(5.0).exp() / normalizer).item())


@pytest.mark.parametrize("vocabulary", [5000, 8192])
@pytest.mark.parametrize("mask_token_id", [0, 4095, 4096, 4999])
def test_sums_are_finite_however_high_the_mask_id_stands(vocabulary, mask_token_id, device):
    logits = torch.zeros(1, vocabulary, device=device)
    logits[0, mask_token_id] = 80.0
    assert_matches(logits, mask_token_id)
    logits[0, mask_token_id] = 200.0
    assert pick(logits, mask_token_id)[1].item() == 0.0


@pytest.mark.parametrize(
    ("equal", "mask_token_id", "token"),
    [
        ([4097, 7, 4095], None, 7),
        ([4097, 7, 4095], 7, 4095),
        ([5, 6], 5, 6),
        (list(range(9000)), 0, 1),
        ([8999, 8998], 8999, 8998),
    ],
)
def test_ties_go_to_the_lowest_id(equal, mask_token_id, token, device):
    logits = torch.zeros(1, 9000, dtype=torch.bfloat16, device=device)
    logits[0, equal] = 3.0
    assert assert_matches(logits, mask_token_id).tolist() == [token]
    assert assert_matches(logits, mask_token_id, drawn(1, 0.0)).tolist() == [token]


@pytest.mark.parametrize("sampling", [None, drawn(9)])
@pytest.mark.parametrize("mask_token_id", [None, 0, MASK])
def test_rows_with_infinite_and_undefined_logits(mask_token_id, sampling, device):
    logits = random_logits(9, 9000).to(device)
    logits[0] = -INF
    logits[1, :8000] = -INF
    logits[2] = -INF
    logits[2, MASK] = 1.0
    logits[3] = -INF
    logits[3, 5000] = 2.0
    logits[4, 17] = INF
    logits[5, 4] = torch.nan
    logits[6] = torch.nan
    logits[7, MASK] = INF
    logits[8, 0] = torch.nan
    assert_matches(logits, mask_token_id, sampling)
    confidence = by_kernel(logits, mask_token_id, sampling)[1]
    assert confidence[2].item() == (0.0 if mask_token_id == MASK else 1.0)
    assert confidence[3].item() == 1.0
    assert confidence[[0, 4, 5, 6, 7, 8]].isnan().all()


def test_large_logits_do_not_overflow(device):
    logits = random_logits(2, 5000).to(device) + torch.tensor([[3e4], [-3e4]], device=device)
    assert_matches(logits, MASK)


@pytest.mark.parametrize("sampling", [None, drawn(3)])
def test_a_row_of_a_wider_buffer_picks_what_it_picks_alone(sampling, device):
    buffer = torch.full((6, 6000), torch.nan, device=device)
    buffer[1::2, 500:5000] = random_logits(3, 4500)
    view = buffer[1::2, 500:5000]
    tokens, confidence = by_kernel(view, MASK, sampling)
    for row in range(3):
        one = slice(row, row + 1)
        own = None if sampling is None else (sampling[0][one], tuple(part[one] for part in sampling[1]))
        alone = by_kernel(view[one].clone(), MASK, own)
        assert torch.equal(tokens[one], alone[0])
        assert torch.equal(confidence[one], alone[1])


def test_no_rows(device):
    empty = torch.empty(0, 5000, device=device)
    for result in (by_kernel(empty, MASK), by_kernel(empty, MASK, drawn(0))):
        assert [part.shape for part in result] == [(0,)] * 2


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 4 GB that only a CPU leaves untouched")
    far = 2**30 + 8192  # fits into 32 bits, the third row's place does not
    storage = torch.empty(2 * far + 5000, dtype=torch.bfloat16)  # memory that nobody touches costs nothing
    logits = storage.as_strided((3, 5000), (far, 1))
    logits.copy_(random_logits(3, 5000, torch.bfloat16))
    assert_matches(logits, MASK)


@pytest.mark.parametrize("sampling", [None, drawn(3)])
def test_every_output_is_written(sampling, device, monkeypatch):
    empty = torch.Tensor.new_empty

    def poisoned(self, *arguments, **options):
        made = empty(self, *arguments, **options)
        return made.fill_(torch.nan if made.is_floating_point() else -7)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_matches(random_logits(3, 9000, torch.bfloat16).to(device), MASK, sampling)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_row_matches_the_rule(data):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = data.draw(st.integers(2, 40))
    values = st.sampled_from([-INF, -2.0, -0.5, 0.0, 0.5, 1.0, 30.0, torch.nan])
    rows = st.lists(values, min_size=vocabulary, max_size=vocabulary)
    logits = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=3)), device=device)
    mask_token_id = data.draw(st.none() | st.integers(0, vocabulary - 1))
    sampling = data.draw(st.sampled_from([None, 0.0, 0.5, 3.0]))
    kernels_tile, kernels._TILE = kernels._TILE, 16
    try:
        assert_matches(
            logits, mask_token_id, None if sampling is None else drawn(len(logits), sampling, step=2)
        )
    finally:
        kernels._TILE = kernels_tile


ONE = torch.zeros(1, dtype=torch.int64)
TWO = torch.zeros(2, dtype=torch.int64)


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
        (torch.zeros(1, 5), {"noise": (ONE, ONE, ONE)}, "got one of temperature and noise"),
        (torch.zeros(1, 5), {"temperature": torch.ones(1)}, "got one of temperature and noise"),
        (
            torch.zeros(1, 5),
            {"temperature": torch.ones(2), "noise": (ONE, ONE, ONE)},
            r"temperature has shape \(2,\), expected \(1\)",
        ),
        (
            torch.zeros(1, 5),
            {"temperature": torch.ones(1), "noise": (ONE, TWO, ONE)},
            r"noise: position has shape \(2,\), expected \(1\)",
        ),
        (
            torch.zeros(1, 5),
            {"temperature": torch.ones(1), "noise": (ONE, ONE, ONE.float())},
            "noise: step is float32, expected int64",
        ),
    ],
)
def test_wrong_arguments_say_what_is_wrong(logits, options, message):
    with pytest.raises(ValueError, match=message):
        pick(logits, **{"mask_token_id": 1, **options})
