import copy

import pytest
import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.reference import masks
from nemotron_diffusion_plugin.reference.model import KeyValueCache, ReferenceModel
from nemotron_diffusion_plugin.tools.training.random_model import SMALL_CONFIG, random_lora, random_tensors

TOKENS = torch.arange(400, 420).view(2, 10)


@pytest.fixture(scope="module")
def model():
    config = NemotronLabsDiffusionConfig(**copy.deepcopy(SMALL_CONFIG))
    built = ReferenceModel(config)
    built.load_state_dict(random_tensors(config, torch.Generator().manual_seed(0)))
    return built


def test_positions_and_masks_may_be_shared_or_per_row(model):
    positions, visible = torch.arange(100, 110), masks.causal(10)
    shared, _ = model(TOKENS, positions, visible)
    rows, _ = model(TOKENS, positions.expand(2, 10), visible.expand(2, 10, 10))
    torch.testing.assert_close(shared, rows, rtol=1e-5, atol=1e-5)
    shifted, _ = model(TOKENS, torch.stack([positions, positions + 300]), visible)
    torch.testing.assert_close(shifted[0], shared[0], rtol=1e-5, atol=1e-5)
    assert (shifted[1] - shared[1]).abs().max() > 1e-3


def test_a_cache_replaces_the_prefix(model):
    whole, _ = model(TOKENS, torch.arange(10), masks.causal(10))
    cache = KeyValueCache()
    assert cache.length == 0
    _, new = model(TOKENS[:, :6], torch.arange(6), masks.causal(6), cache)
    cache.append(new, count=4)
    assert cache.length == 4
    rest, _ = model(TOKENS[:, 4:], torch.arange(4, 10), masks.causal(6, cached=4), cache)
    torch.testing.assert_close(rest, whole[:, 4:], rtol=1e-4, atol=1e-4)
    assert cache.length == 4


def test_a_block_sees_its_end_and_a_causal_row_does_not(model):
    changed = TOKENS.clone()
    changed[:, -1] += 1
    for visible, differs in ((masks.causal(10), False), (masks.bidirectional(10), True)):
        before, _ = model(TOKENS, torch.arange(10), visible)
        after, _ = model(changed, torch.arange(10), visible)
        assert bool((before[:, 0] - after[:, 0]).abs().max() > 1e-3) is differs


def test_hidden_states_come_before_the_head(model):
    logits, _ = model(TOKENS, torch.arange(10), masks.causal(10))
    hidden, _ = model(TOKENS, torch.arange(10), masks.causal(10), return_hidden=True)
    assert hidden.shape == (2, 10, 96)
    torch.testing.assert_close(model.diffusion_head(hidden), logits)


def test_gradients_reach_every_parameter_and_the_lora(model):
    lora = random_lora(model.config, torch.Generator().manual_seed(1))
    logits, _ = model(TOKENS, torch.arange(10), masks.bidirectional(10), lora=lora)
    logits.logsumexp(-1).mean().backward()
    assert all(parameter.grad is not None for parameter in [*model.parameters(), *lora.parameters()])
    model.zero_grad()


def test_a_fresh_lora_is_the_identity_and_a_random_one_is_not(model):
    plain, _ = model(TOKENS, torch.arange(10), masks.causal(10))
    fresh, _ = model(
        TOKENS, torch.arange(10), masks.causal(10), lora=DrafterLora.create(model.config, 4, 16.0)
    )
    assert torch.equal(plain, fresh)
    adapter = random_lora(model.config, torch.Generator().manual_seed(1))
    changed, _ = model(TOKENS, torch.arange(10), masks.causal(10), lora=adapter)
    assert (changed - plain).abs().max() > 0.1
