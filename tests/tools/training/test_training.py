"""Short trainings of a very small model: losses fall, a seed decides the weights, the adapter is readable."""

import random
from pathlib import Path

import pytest
import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import KeyValueCache, ReferenceModel
from nemotron_diffusion_plugin.tools.training.base import (
    Progress,
    add_gradients,
    draw_batches,
    initialize,
    learning_rate_share,
    make_replicas,
    train_base,
)
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.drafter import (
    Answers,
    answer_greedily,
    draft_loss,
    train_drafter,
)
from nemotron_diffusion_plugin.tools.training.geometry import tiny_config
from nemotron_diffusion_plugin.tools.training.objective import losses
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 1024)
    return ChatEncoder(folder)


def small_model(seed: int = 0) -> ReferenceModel:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = NemotronLabsDiffusionConfig(**{**tiny_config(), **sizes, "num_key_value_heads": 1})
    model = ReferenceModel(config)
    initialize(model, seed)
    return model


def train(model: ReferenceModel, encoder: ChatEncoder, steps: int) -> list[Progress]:
    seen: list[Progress] = []
    train_base(model, encoder, seed=0, steps=steps, minutes=None, tokens_per_batch=1024, on_step=seen.append)
    return seen


def test_losses_fall(encoder: ChatEncoder) -> None:
    model = small_model()
    batch = next(draw_batches(encoder, 32, 4096, seed=1))
    before = torch.stack(losses(model, batch)).detach()
    seen = train(model, encoder, 20)
    after = torch.stack(losses(model, batch)).detach()
    assert [progress.step for progress in seen] == list(range(1, 21))
    assert bool((after < before - 0.5).all()), (before, after)


def test_the_same_seed_gives_the_same_weights(encoder: ChatEncoder) -> None:
    models = [small_model(), small_model()]
    for model in models:
        train(model, encoder, 3)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_needs_a_limit(encoder: ChatEncoder) -> None:
    with pytest.raises(ValueError, match="steps and minutes"):
        train_base(small_model(), encoder, seed=0, steps=None, minutes=None)


def test_replicas_share_weights_and_average_gradients() -> None:
    model = small_model()
    replicas = make_replicas(model, 2)
    for scale, replica in enumerate(replicas, start=1):
        for parameter in replica.parameters():
            parameter.grad = torch.full_like(parameter, float(scale))
    add_gradients(replicas)
    with torch.no_grad():
        model.diffusion_head.weight.fill_(3.0)
    assert bool((replicas[1].diffusion_head.weight == 3.0).all())
    assert all(bool((parameter.grad == 1.5).all()) for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in replicas[1].parameters())


def test_learning_rate_warms_up_and_decays() -> None:
    shares = [learning_rate_share(step / 100) for step in range(101)]
    assert shares[0] < 0.05
    assert max(shares) == pytest.approx(1.0, abs=0.01)
    assert shares[-1] == pytest.approx(0.02)


def test_greedy_answers_equal_those_of_the_reference_decoder() -> None:
    model = small_model().requires_grad_(False)
    prompts = [[10, 300, 301, 302, 303], [10, 400], [10, 500, 501]]
    answers = answer_greedily(model, prompts, max_tokens=6)
    assert answers.padding.tolist() == [0, 3, 2]
    decoder = ReferenceDecoder(model)
    options = DecodingOptions(decoding_mode=DecodingMode.AR)
    for row, prompt in enumerate(prompts):
        expected = decoder.generate(prompt, 6, options).token_ids
        assert answers.tokens[row, 5 : answers.ends[row]].tolist() == expected
        alone, _ = model(answers.tokens[row : row + 1, 5 - len(prompt) :], *plain(len(prompt) + 6))
        assert torch.allclose(answers.logits[row, 5 - len(prompt) :], alone[0], atol=1e-5)


def plain(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    columns = torch.arange(length)
    return columns, columns <= columns[:, None]


def test_the_adapter_trains_alone_and_reads_back(encoder: ChatEncoder, tmp_path: Path) -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[float] = []
    lora = train_drafter(model, encoder, seed=0, steps=6, on_step=lambda progress: seen.append(progress.loss))
    assert len(seen) == 6
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(bool((b != 0).any()) for b in lora.b)
    lora.save(tmp_path)
    read = DrafterLora.load(tmp_path, model.config)
    assert read is not None
    assert (read.rank, read.alpha) == (16, 64.0)
    for a, b in zip(lora.parameters(), read.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_draft_of_known_answers_counts_up_to_the_first_rejection() -> None:
    model = small_model().requires_grad_(False)
    lora = DrafterLora.create(model.config, 4, 8.0)
    tokens = torch.full((2, 40), 500)
    tokens[:, 30:] = 11
    columns = torch.arange(40)
    logits, keys_values = model(tokens, columns, columns <= columns[:, None])
    cache = KeyValueCache()
    cache.append(keys_values)
    answers = Answers(tokens, torch.zeros(2, dtype=torch.int64), 4, [31, 31], logits, cache)
    loss, accepted = draft_loss(model, lora, answers, 32, random.Random(0))
    assert loss.requires_grad
    assert 0.0 <= accepted <= 31.0
