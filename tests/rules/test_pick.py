import pytest
import torch

from nemotron_diffusion_plugin.rules import pick as pick_module
from nemotron_diffusion_plugin.rules.noise import uniform
from nemotron_diffusion_plugin.rules.pick import pick

MASK = 3


def noise_for(seeds, vocab):
    step = torch.zeros_like(seeds)
    return lambda rows: uniform(seeds[rows], seeds[rows] * 7, step[rows], vocab)


@pytest.mark.parametrize("mask_token_id", [0, 3, 9])
def test_greedy_never_picks_the_mask_id(mask_token_id):
    logits = torch.randn(50, 10)
    logits[:25, mask_token_id] = 20.0
    before = logits.clone()
    tokens, _ = pick(logits, mask_token_id)
    allowed = logits.clone()
    allowed[:, mask_token_id] = -torch.inf
    assert torch.equal(tokens, allowed.argmax(dim=1))
    assert torch.equal(logits, before)
    assert tokens.dtype == torch.int64


def test_ties_go_to_the_lowest_id_on_either_side_of_the_mask():
    logits = torch.zeros(1, 10)
    assert pick(logits, MASK)[0].tolist() == [0]
    assert pick(logits, 0)[0].tolist() == [1]
    logits[0, [2, 7]] = 1.0
    assert pick(logits, MASK)[0].tolist() == [2]
    logits[0, [7, 8]] = 2.0
    assert pick(logits, MASK)[0].tolist() == [7]


def test_without_a_mask_id_nothing_is_excluded():
    logits = torch.zeros(1, 10)
    logits[0, MASK] = 5.0
    assert pick(logits, None)[0].tolist() == [MASK]


@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
@pytest.mark.parametrize("mask_token_id", [None, 0, 4, 9])
def test_a_logit_that_is_nan_is_never_picked_and_leaves_no_confidence(mask_token_id, temperature):
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    logits[0, 2] = logits[1, 7] = logits[2, :9] = logits[3] = torch.nan
    logits[2, 1] = -30.0
    drawn = () if temperature is None else (torch.full((4,), temperature), noise_for(torch.arange(4), 10))
    tokens, confidences = pick(logits, mask_token_id, *drawn)
    lowered = logits.nan_to_num(nan=-torch.inf)
    if temperature is None or temperature == 0.0:
        if mask_token_id is not None:
            lowered[:, mask_token_id] = -torch.inf
        assert torch.equal(tokens[:3], lowered[:3].argmax(dim=1))
    else:
        assert lowered[torch.arange(3), tokens[:3]].isfinite().all()
    assert tokens[3] == (1 if mask_token_id == 0 else 0)
    assert confidences.isnan().all()


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_rows_of_infinite_logits(temperature):
    logits = torch.zeros(4, 6)
    logits[0, 4] = torch.inf
    logits[1, MASK] = torch.inf
    logits[2] = -torch.inf
    logits[3, :5] = -torch.inf
    drawn = () if temperature is None else (torch.full((4,), temperature), noise_for(torch.arange(4), 6))
    for mask_token_id in (MASK, 0):
        tokens, confidences = pick(logits, mask_token_id, *drawn)
        assert tokens[[0, 2, 3]].tolist() == [4, 1 if mask_token_id == 0 else 0, 5]
        assert (tokens[1] == MASK) == (mask_token_id != MASK)
        assert confidences[:3].isnan().all()
        assert confidences[3] == 1.0


def test_confidence_keeps_the_mask_id_in_the_denominator():
    logits = torch.tensor([[1.0, 2.0, 0.5, 4.0]])
    tokens, confidences = pick(logits, MASK)
    assert tokens.tolist() == [1]
    torch.testing.assert_close(confidences, logits.softmax(dim=1)[:, 1])
    assert confidences.dtype == torch.float32


def test_confidence_is_exact_however_large_the_logits_are():
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)) * 3
    for offset in (-3e4, 0.0, 3e4):
        tokens, confidences = pick(logits + offset, MASK)
        exact = (logits + offset).double().softmax(dim=1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(confidences.double(), exact, rtol=2e-6, atol=0.0)


def test_confidence_is_untempered():
    logits = torch.randn(20, 30)
    temperature = torch.full((20,), 2.0)
    tokens, confidences = pick(logits, MASK, temperature, noise_for(torch.arange(20), 30))
    expected = logits.softmax(dim=1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(confidences, expected)


def test_rows_are_chunked_without_changing_the_result(monkeypatch):
    logits = torch.randn(17, 40)
    temperature = torch.rand(17)
    noise = noise_for(torch.arange(17), 40)
    whole = pick(logits, MASK, temperature, noise)
    monkeypatch.setattr(pick_module, "_CHUNK_ELEMENTS", 3 * 40)
    chunked = pick(logits, MASK, temperature, noise)
    assert torch.equal(whole[0], chunked[0])
    torch.testing.assert_close(whole[1], chunked[1])
    assert torch.equal(pick(logits, MASK)[0], pick(logits, MASK, torch.zeros(17), noise)[0])


def test_sampling_is_the_published_formula():
    logits = torch.randn(200, 12)
    seeds = torch.arange(200)
    temperature = torch.linspace(0.2, 1.5, 200)
    noise = noise_for(seeds, 12)
    tokens, _ = pick(logits, MASK, temperature, noise)
    u = noise(slice(None))
    scores = logits.double().exp() / (-torch.log(u)) ** temperature.double()[:, None]
    scores[:, MASK] = 0.0
    assert torch.equal(tokens, scores.argmax(dim=1))


def test_sampling_follows_the_tempered_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, 9.0, -1.0]).repeat(20000, 1)
    tokens, _ = pick(logits, MASK, torch.full((20000,), 0.7), noise_for(torch.arange(20000), 5))
    expected = torch.tensor([0.0, 1.0, 2.0, -torch.inf, -1.0]).div(0.7).softmax(dim=0) * 20000
    observed = torch.bincount(tokens, minlength=5).float()
    assert observed[MASK] == 0
    kept = expected > 0
    chi_square = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_half_precision_logits_and_no_rows():
    logits = torch.randn(4, 50, dtype=torch.bfloat16)
    tokens, confidences = pick(logits, MASK)
    expected = logits.float().softmax(dim=1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(confidences, expected)
    assert pick(torch.empty(0, 50), MASK)[0].shape == (0,)


def test_temperature_needs_noise():
    with pytest.raises(ValueError, match="expected `uniform` beside `temperature`"):
        pick(torch.zeros(1, 4), MASK, torch.ones(1))
