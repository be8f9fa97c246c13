"""The comparison with the reference decoder finds equal answers equal and every difference."""

from dataclasses import replace

import pytest

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.bench.client import Reply
from nemotron_diffusion_plugin.tools.bench.counts import Counts
from nemotron_diffusion_plugin.tools.bench.data import open_source
from nemotron_diffusion_plugin.tools.bench.exactness import Reference
from nemotron_diffusion_plugin.tools.bench.methods import find_method
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder

METHOD = find_method("self_speculation")


@pytest.fixture(scope="module")
def served():
    """What a server that is right would have said and counted, from an encoder of its own."""
    decoder, encoder = ReferenceDecoder.from_checkpoint(BUNDLED_CHECKPOINT), ChatEncoder(BUNDLED_CHECKPOINT)
    prompts = open_source("tiny", ["code"], 0).take("code", 0, 2)
    options = DecodingOptions.parse(METHOD.options, DecodingOptions(), 32)
    answers = [decoder.generate(encoder.prompt(p.messages[0]["content"]), 160, options) for p in prompts]
    replies = [Reply(encoder.decode(a.token_ids), 1, len(a.token_ids)) for a in answers]
    forwards = {
        "prefill": 2,
        "draft": sum(a.draft_forwards for a in answers),
        "denoise": 0,
        "verify": sum(a.verify_forwards for a in answers),
    }
    return prompts, replies, Counts(forwards=forwards, accepted=sum(sum(a.accepted) for a in answers))


@pytest.fixture(scope="module")
def reference():
    return Reference(BUNDLED_CHECKPOINT, 160)


def test_equal(reference, served):
    assert reference.differences(METHOD, *served) == []


def test_every_difference_is_named(reference, served):
    prompts, replies, counts = served
    wrong = [replies[0], replace(replies[1], text=replies[1].text + "!")]
    [difference] = reference.differences(METHOD, prompts, wrong, counts)
    assert difference.startswith("prompt 1: served")
    more = replace(counts, forwards={**counts.forwards, "verify": counts.forwards["verify"] + 1})
    [difference] = reference.differences(METHOD, prompts, replies, more)
    assert difference.startswith("verify forwards: served")
    [difference] = reference.differences(METHOD, prompts, replies, replace(counts, accepted=0))
    assert difference.startswith("accepted drafts: served 0")


def test_it_needs_a_folder():
    from pathlib import Path

    with pytest.raises(ValueError, match=r"no config\.json, expected a folder with a checkpoint"):
        Reference(Path("nvidia/no-such-folder"), 10)
