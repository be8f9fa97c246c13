import pytest
import torch

from nemotron_diffusion_plugin.options import CommitRule, DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import KeyValueCache
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.reference import oracle

AR = DecodingOptions(decoding_mode=DecodingMode.AR)
LONG_ROPE = {"original_max_position_embeddings": 512}
SHAPES = {
    # positions stay below original_max_position_embeddings: a stock Llama has no query scale
    "llama": ("llama", {"rope_parameters": LONG_ROPE}, {"seed": 1, "shards": 3}),
    # the query scale changes every 64 positions
    "scaled": ("ministral3", {}, {"seed": 2}),
    "wide_heads": (
        "ministral3",
        {"hidden_size": 64, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 64},
        {"seed": 3},
    ),
}


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request, tmp_path_factory):
    """A reference decoder and an oracle on the same random checkpoint."""
    return build(tmp_path_factory.mktemp(request.param), *SHAPES[request.param])


def build(folder, kind, config, options):
    write_random_checkpoint(
        folder, config={"eos_token_id": None, "num_hidden_layers": 2, **config}, **options
    )
    return ReferenceDecoder.from_checkpoint(folder), oracle.Oracle(folder, kind)


def prompt_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed + count)
    return torch.randint(128, 1024, (count,), generator=generator).tolist()


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_causal_logits(pair):
    reference, stock = pair
    tokens = prompt_of(300)
    logits, _ = reference.model(torch.tensor([tokens]), torch.arange(300), masks.causal(300))
    close(logits[0], stock.causal(tokens))


def test_causal_logits_with_a_factor_below_one(tmp_path):
    test_causal_logits(build(tmp_path, "ministral3", {"rope_parameters": {"factor": 0.25}}, {"seed": 4}))


def test_block_logits_with_and_without_lora_from_a_cache(pair):
    reference, stock = pair
    prefix, block = prompt_of(130), [7] + [100] * 15
    cache = KeyValueCache()
    _, keys_values = reference.model(torch.tensor([prefix]), torch.arange(130), masks.causal(130))
    cache.append(keys_values)
    positions, visible = torch.arange(130, 146), masks.bidirectional(16, 130)
    for lora in (None, reference.lora):
        logits, _ = reference.model(torch.tensor([block]), positions, visible, cache, lora)
        close(logits[0], stock.block(prefix, block, lora=lora is not None))


@pytest.mark.parametrize("count", [1, 7, 90])
def test_ar_and_linear_self_speculation(pair, count):
    reference, stock = pair
    prompt = prompt_of(count)
    expected = oracle.ar(stock, prompt, 24)
    result = reference.generate(prompt, 24, AR)
    assert result.token_ids == expected
    assert result.verify_forwards == 23
    for lora in (True, False):
        tokens, accepted = oracle.linear(stock, prompt, 24, 16, lora)
        result = reference.generate(prompt, 24, DecodingOptions(block_size=16, draft_lora=lora))
        assert result.token_ids == tokens == expected
        assert result.accepted == accepted
        assert result.draft_forwards == result.verify_forwards == len(accepted)


def test_confidences_of_causal_picks(pair):
    """They are un-tempered, also where tokens are sampled; every mode without denoising has the same."""
    reference, stock = pair
    prompt = prompt_of(12)
    sampled = {"temperature": 0.8, "seed": 3}
    runs = [reference.generate(prompt, 30, options, **sampled) for options in (AR, DecodingOptions())]
    runs.append(reference.generate(prompt, 30, DecodingOptions(block_size=5), quadratic=True, **sampled))
    rows = stock.causal(prompt + runs[0].token_ids)[len(prompt) - 1 : -1].softmax(-1)
    expected = [float(row[token]) for row, token in zip(rows, runs[0].token_ids, strict=True)]
    for run in runs:
        assert run.confidences == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "block_size", "threshold", "steps"),
    [(1, 32, 0.9, None), (60, 16, 0.5, None), (17, 8, 0.9, 3), (17, 8, 0.3, 1), (150, 32, 0.9, None)],
)
def test_diffusion(pair, count, block_size, threshold, steps):
    reference, stock = pair
    prompt = prompt_of(count)
    options = DecodingOptions(
        decoding_mode=DecodingMode.DIFFUSION,
        block_size=block_size,
        threshold=threshold,
        denoising_steps=steps,
    )
    result = reference.generate(prompt, 50, options)
    tokens, confidences, taken, commits = oracle.diffusion(stock, prompt, 50, block_size, threshold, steps)
    assert result.token_ids == tokens
    assert result.confidences == pytest.approx(confidences, rel=1e-3)
    assert result.denoise_steps == taken
    assert (result.denoise_forwards, result.verify_forwards) == (sum(taken), commits)


def test_diffusion_by_schedule(pair):
    reference, stock = pair
    prompt = prompt_of(20)
    options = DecodingOptions(
        decoding_mode=DecodingMode.DIFFUSION,
        block_size=16,
        commit_rule=CommitRule.SCHEDULE,
        denoising_steps=4,
    )
    result = reference.generate(prompt, 40, options)
    tokens, _, taken, _ = oracle.diffusion(stock, prompt, 40, 16, None, 4)
    assert (result.token_ids, result.denoise_steps) == (tokens, taken)


@pytest.mark.parametrize("count", [1, 30])
def test_quadratic_self_speculation(pair, count):
    reference, stock = pair
    prompt = prompt_of(count)
    options = DecodingOptions(block_size=4)
    result = reference.generate(prompt, 16, options, quadratic=True)
    tokens, cycles = oracle.quadratic(stock, prompt, 16, 4)
    assert result.token_ids == tokens
    # the reference emits the first draft, an AR pick, ahead of the cycle that verifies what follows it
    assert result.accepted == [n - 1 for n in cycles][: len(result.accepted)]
    assert result.token_ids == reference.generate(prompt, 16, AR).token_ids


def test_some_drafts_are_accepted_and_the_lora_changes_them(pair):
    reference, _ = pair
    with_lora, without = [], []
    for count in (3, 20):
        prompt = prompt_of(count)
        with_lora += reference.generate(prompt, 60, DecodingOptions()).accepted
        without += reference.generate(prompt, 60, DecodingOptions(draft_lora=False)).accepted
    assert sum(with_lora) > 0
    assert sum(without) > 0
    assert with_lora != without


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_self_speculation_equals_ar_at_any_temperature(pair, temperature):
    reference, _ = pair
    prompt = prompt_of(25)
    arguments = {"temperature": temperature, "seed": 5}
    expected = reference.generate(prompt, 40, AR, **arguments).token_ids
    assert reference.generate(prompt, 40, DecodingOptions(), **arguments).token_ids == expected
    assert reference.generate(prompt, 40, DecodingOptions(block_size=7), **arguments).token_ids == expected
    quadratic = reference.generate(prompt, 40, DecodingOptions(block_size=6), quadratic=True, **arguments)
    assert quadratic.token_ids == expected
    if temperature:
        assert reference.generate(prompt, 40, AR, temperature=temperature, seed=6).token_ids != expected


def test_diffusion_samples_reproducibly(pair):
    reference, _ = pair
    options = DecodingOptions(decoding_mode=DecodingMode.DIFFUSION, block_size=8)
    prompt = prompt_of(9)
    runs = [
        reference.generate(prompt, 30, options, temperature=1.0, seed=seed).token_ids for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert 100 not in runs[0]


def test_a_request_stops_at_the_model_length_in_every_mode(pair):
    reference, _ = pair
    prompt = prompt_of(20)
    expected = reference.generate(prompt, 50, AR).token_ids
    for limit in (21, 22, 30, 53):
        for options in (AR, DecodingOptions(), DecodingOptions(decoding_mode=DecodingMode.DIFFUSION)):
            result = reference.generate(prompt, 50, options, max_model_len=limit)
            assert len(result.token_ids) == limit - 20
            assert result.finish_reason == "length"
            if options.decoding_mode is not DecodingMode.DIFFUSION:
                assert result.token_ids == expected[: limit - 20]
        shortened = reference.generate(prompt, 50, DecodingOptions(), quadratic=True, max_model_len=limit)
        assert shortened.token_ids == expected[: limit - 20]
