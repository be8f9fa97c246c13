import json
import random

import pytest
import torch

from benchmarks import draft_policies as module
from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder


@pytest.fixture(scope="module")
def decoder():
    return ReferenceDecoder.from_checkpoint(BUNDLED_CHECKPOINT)


@pytest.fixture(scope="module")
def prompts():
    encoder, rng = ChatEncoder(BUNDLED_CHECKPOINT), random.Random(3)
    return [encoder.prompt(tasks.draw(rng, held_out=True, category="json").question) for _ in range(2)]


def options(mode):
    return DecodingOptions(decoding_mode=mode)


@torch.no_grad()
def test_greedy_answers_and_cycles_are_the_reference_decoder_s(decoder, prompts):
    for prompt in prompts:
        expected = decoder.generate(prompt, module.NEW_TOKENS, options(DecodingMode.SELF_SPECULATION))
        counts = module.Counts()
        speculation = module.Speculation(decoder, torch.Generator().manual_seed(0))
        answer = speculation.run(prompt, 0.0, module.argmax_drafts, None, counts)
        assert answer[: module.NEW_TOKENS] == expected.token_ids
        assert counts.cycles == len(expected.accepted)


@torch.no_grad()
def test_sampled_drafts_at_a_temperature_near_zero_are_the_most_likely(decoder, prompts):
    lengths = []
    for sampled in (False, True):
        numbers, counts = torch.Generator().manual_seed(0), module.Counts()
        choose = module.sampled_drafts(1e-4, numbers) if sampled else module.argmax_drafts
        answer = module.Speculation(decoder, numbers).run(prompts[0], 1e-4, choose, None, counts)
        lengths.append((answer, counts.cycles))
    assert lengths[0] == lengths[1]


@torch.no_grad()
def test_masked_drafts_change_the_cycles_and_not_the_answer(decoder, prompts):
    pytest.importorskip("xgrammar")
    results = []
    config = decoder.model.config
    compiled = module.JsonGrammar.compile(BUNDLED_CHECKPOINT, json.dumps(module.RECORD), config.vocab_size)
    for most in (0, 8):
        numbers, counts = torch.Generator().manual_seed(0), module.Counts()
        grammar = module.JsonGrammar(compiled, config, most, counts)
        choose = grammar.choose if most else module.argmax_drafts
        answer = module.Speculation(decoder, numbers).run(prompts[0], 0.0, choose, grammar.edit, counts)
        results.append((answer, counts.cycles))
    assert results[0][0] == results[1][0]
    assert results[1][1] < results[0][1]
