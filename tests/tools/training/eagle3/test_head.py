"""The head's chains against a plain loop that drafts one token after the other and runs the whole text each time."""

from __future__ import annotations

import pytest
import torch

from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.eagle3.head import Context, Eagle3Head, HeadConfig, read_target
from tests.tools.training.eagle3.toy import random_head, small_target


@pytest.fixture(scope="module")
def target() -> ReferenceModel:
    return small_target()


@pytest.fixture(scope="module")
def head(target: ReferenceModel) -> Eagle3Head:
    return random_head(target)


def layer(head: Eagle3Head, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The published layer over a whole sequence: tokens int64[T] and what goes with each, `[T, hidden_size]`."""
    config, mid = head.config, head.midlayer
    x = torch.cat([mid.input_layernorm(tokens), mid.hidden_norm(hidden)], dim=-1)
    count, size = len(tokens), config.head_dim
    inv_freq = 1.0 / config.rope_theta ** (torch.arange(0, size, 2).float() / size)
    angles = torch.outer(torch.arange(count).float(), inv_freq).repeat(1, 2)[:, None]

    def rotated(y: torch.Tensor) -> torch.Tensor:
        y = y.view(count, -1, size)
        turned = torch.cat([-y[..., size // 2 :], y[..., : size // 2]], dim=-1)
        return y * angles.cos() + turned * angles.sin()

    attention = mid.self_attn
    queries, keys = rotated(attention.q_proj(x)), rotated(attention.k_proj(x))
    values = attention.v_proj(x).view(count, -1, size)
    shared = config.num_attention_heads // config.num_key_value_heads
    mixed = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys.repeat_interleave(shared, 1).transpose(0, 1),
        values.repeat_interleave(shared, 1).transpose(0, 1),
        is_causal=True,
    )
    hidden = hidden + attention.o_proj(mixed.transpose(0, 1).flatten(1))
    return hidden + mid.mlp(mid.post_attention_layernorm(hidden))


def draft_plainly(
    head: Eagle3Head, target: ReferenceModel, tokens: list[int], start: int, steps: int
) -> list[torch.Tensor]:
    """The hidden states of a chain: each step runs the head over the text up to `start` and the drafts behind it."""
    context, _ = read_target(target, torch.tensor([tokens]), torch.zeros(1, dtype=torch.int64), (1, 2, 3))
    embedded = target.encoder.embed_tokens(torch.tensor(tokens))
    hidden = head.fc(context.features[0])[: start + 1]
    outputs = []
    for step in range(steps):
        output = layer(head, embedded[1 : start + step + 2], hidden)
        hidden = torch.cat([hidden, output[-1:]])
        outputs.append(head.norm(output[-1]))
    return outputs


def test_chains_are_those_of_a_plain_loop(head: Eagle3Head, target: ReferenceModel) -> None:
    tokens = [7, 300, 20, 301, 302, 9, 500, 501, 40, 41]
    context, _ = read_target(target, torch.tensor([tokens]), torch.zeros(1, dtype=torch.int64), (1, 2, 3))
    starts = torch.tensor([[0, 3, 5]])
    steps = list(head.chains(target.encoder.embed_tokens, context, starts, 4))
    for chain, start in enumerate(starts[0].tolist()):
        expected = draft_plainly(head, target, tokens, start, 4)
        for step in range(4):
            assert torch.allclose(steps[step][0, chain], expected[step], atol=1e-5), (start, step)


def test_padding_and_neighbours_change_nothing(head: Eagle3Head, target: ReferenceModel) -> None:
    tokens = torch.tensor([[11, 11, 11, 7, 300, 20, 301, 302], [5, 6, 400, 401, 402, 403, 404, 405]])
    padded, _ = read_target(target, tokens, torch.tensor([3, 0]), (1, 2, 3))
    alone, _ = read_target(target, tokens[:1, 3:], torch.tensor([0]), (1, 2, 3))
    beside = head.chains(target.encoder.embed_tokens, padded, torch.tensor([[4, 5], [4, 5]]), 3)
    by_itself = head.chains(target.encoder.embed_tokens, alone, torch.tensor([[1, 2]]), 3)
    for a, b in zip(beside, by_itself, strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-5)


def test_a_draft_sees_the_drafts_before_it(head: Eagle3Head, target: ReferenceModel) -> None:
    tokens = torch.tensor([[7, 300, 20, 301, 302, 9]])
    context, _ = read_target(target, tokens, torch.tensor([0]), (1, 2, 3))
    other = tokens.clone()
    other[0, 3] = 700
    starts = torch.tensor([[1]])
    first = list(head.chains(target.encoder.embed_tokens, context, starts, 3))
    changed = Context(other, context.padding, context.features)
    second = list(head.chains(target.encoder.embed_tokens, changed, starts, 3))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)
    assert not torch.allclose(first[2], second[2], atol=1e-3)


def test_the_kept_vectors_are_the_inputs_of_the_layers(target: ReferenceModel) -> None:
    tokens = torch.tensor([[7, 300, 20]])
    context, hidden = read_target(target, tokens, torch.tensor([0]), (1, 2, 3))
    columns = torch.arange(3)
    expected, _ = target(tokens, columns, columns <= columns[:, None], return_hidden=True)
    assert torch.equal(hidden, expected)
    shallow = small_target()
    shallow.encoder.layers = shallow.encoder.layers[:2]
    shallow.encoder.norm = torch.nn.Identity()
    after_two, _ = shallow(tokens, columns, columns <= columns[:, None], return_hidden=True)
    assert torch.allclose(context.features[..., 48:96], after_two, atol=1e-6)
    assert not target.encoder.layers[1]._forward_pre_hooks


@pytest.mark.parametrize("layers", [(1, 2), (2, 1, 3), (1, 1, 2), (0, 1, 2)])
def test_layers_that_no_engine_keeps_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="layers: got"):
        HeadConfig(48, 1024, 64, 4, 2, 16, 256, layers)
