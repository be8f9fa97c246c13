"""New weights in a running server: every mode answers as the reference decoder of the new checkpoint does."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.common.auto import predictable
from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.common.checkpoints import TRAINED
from tests.common.damage import (
    ADAPTER,
    WEIGHTS,
    halve_the_adapter,
    lose_a_layer,
    put_in_a_nan,
    shorten_a_tensor,
    truncate,
    truncate_the_adapter,
)
from tests.served import updates
from tests.served.running import Running
from tests.served.setups import on
from tests.served.updates import Updates, write_other

pytestmark = [pytest.mark.engine, on("auto")]

DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (lose_a_layer, "encoder.layers.1."),
    (put_in_a_nan, "'encoder.norm.weight' holds NaN"),
    (shorten_a_tensor, "got shape [191], expected [192]"),
    (truncate, "truncated"),
    (truncate_the_adapter, "truncated"),
    (halve_the_adapter, "drafter LoRA: got rank"),
    (shutil.rmtree, "no such folder"),
]
BAD = [
    ("encoder.norm.weight", torch.full((192,), torch.nan), "'encoder.norm.weight' holds NaN"),
    ("encoder.norm.weight", torch.ones(191), "got shape [191], expected [192]"),
    ("encoder.norm.weights", torch.ones(192), "'encoder.norm.weights' is unknown"),
    (
        "base_model.model.encoder.layers.0.self_attn.o_proj.lora_A.weight",
        torch.ones(4, 256),
        "got shape [4, 256]",
    ),
]
CASE = Case([300, 400, 500, 310, 320], 40, {}, ignore_eos=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other(TRAINED, tmp_path_factory.mktemp("updates") / "other")


@pytest.fixture
def changes(running: Running) -> Iterator[Updates]:
    with updates.restored(running) as changes:
        yield changes


def check_every_mode(running: Running) -> None:
    """Tokens and forwards are the reference decoder's, with the LoRA and without, which makes a difference."""
    vocab, mode = running.reference.config.vocab_size, {"decoding_mode": "self_speculation"}
    drafted = Case(prompt(random.Random(0), 10, vocab), 80, mode, ignore_eos=True)
    plain = replace(drafted, options={**mode, "draft_lora": False})
    tokens = prompt(random.Random(0), 40, vocab)
    others = [Case(tokens, 30, {"decoding_mode": other}, ignore_eos=True) for other in ("ar", "diffusion")]
    for case in (drafted, plain, *others):
        running.check([case])
    assert running.reference.generate(drafted).accepted != running.reference.generate(plain).accepted


def test_another_checkpoint(running: Running, changes: Updates, other: Path) -> None:
    """A prefix that was cached under the old weights is not used for the new ones."""
    tokens = prompt(random.Random(1), 140, running.reference.config.vocab_size)
    case = Case(tokens, 20, {"decoding_mode": "self_speculation"}, ignore_eos=True)
    before = running.reference.generate(case)
    for cached in (False, True):
        answer, hits = running.complete_with_hits(case)
        assert answer.token_ids == before.token_ids
        assert bool(hits) is cached
    changes.serve(other)
    answer, hits = running.complete_with_hits(case)
    running.check_answers([case], [answer])
    assert hits == 0
    assert answer.token_ids != before.token_ids
    check_every_mode(running)


def test_the_same_weights_with_another_adapter(running: Running, changes: Updates, tmp_path: Path) -> None:
    """The text stays, acceptance is the new adapter's."""
    made = shutil.copytree(TRAINED, tmp_path / "made")
    halves = load_file(made / ADAPTER)
    save_file({name: -half if "lora_B" in name else half for name, half in halves.items()}, made / ADAPTER)
    [asked] = predictable(1, new=60)
    case = replace(asked, options={"decoding_mode": "self_speculation"})
    before = running.reference.generate(case)
    changes.serve(made)
    running.check([case])
    after = running.reference.generate(case)
    assert after.token_ids == before.token_ids
    assert after.accepted != before.accepted


def test_without_an_adapter_the_old_one_stays(
    running: Running, changes: Updates, other: Path, tmp_path: Path
) -> None:
    made = shutil.copytree(other, tmp_path / "made")
    shutil.rmtree(made / "linear_spec_lora")
    assert changes.from_disk(made).status_code == 200
    shutil.copytree(TRAINED / "linear_spec_lora", made / "linear_spec_lora")
    changes.compare_with(made)
    check_every_mode(running)


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_checkpoint_that_cannot_be_served(
    damage: Callable[[Path], None], said: str, running: Running, changes: Updates, other: Path, tmp_path: Path
) -> None:
    """The reply says what is wrong with it, and the old weights serve on."""
    damage(shutil.copytree(other, tmp_path / "made"))
    reply = changes.from_disk(tmp_path / "made")
    assert reply.status_code == changes.refusal
    assert said in reply.text
    running.check([Case(CASE.prompt, 40, {"decoding_mode": "self_speculation"}, ignore_eos=True)])


def test_in_buckets(running: Running, changes: Updates, other: Path) -> None:
    """All tensors as a trainer sends them, the adapter's last: layers and their parts are in several buckets."""
    tensors = [*load_file(other / WEIGHTS).items(), *load_file(other / ADAPTER).items()]
    reply = changes.from_tensors(*(tensors[at : at + 10] for at in range(0, len(tensors), 10)))
    assert reply.status_code == 200, reply.text
    changes.compare_with(other)
    check_every_mode(running)


def test_some_tensors(running: Running, changes: Updates, other: Path, tmp_path: Path) -> None:
    """The rest keeps its values."""
    made = shutil.copytree(TRAINED, tmp_path / "made")
    for file, names in (
        (WEIGHTS, ("layers.1.mlp.", "layers.4.self_attn.", "encoder.norm", "diffusion_head")),
        (ADAPTER, ("layers.2.", "layers.3.self_attn.o_proj.lora_B")),
    ):
        sent = {
            name: tensor
            for name, tensor in load_file(other / file).items()
            if any(part in name for part in names)
        }
        reply = changes.from_tensors(list(sent.items()))
        assert reply.status_code == 200, reply.text
        save_file({**load_file(made / file), **sent}, made / file)
    changes.compare_with(made)
    check_every_mode(running)


@pytest.mark.parametrize(("name", "tensor", "said"), BAD, ids=["nan", "shape", "name", "adapter"])
def test_tensors_that_cannot_be_taken(
    name: str, tensor: torch.Tensor, said: str, running: Running, changes: Updates, other: Path
) -> None:
    """Of their bucket nothing is; after an error a whole update is possible again."""
    good = load_file(other / WEIGHTS)["diffusion_head.weight"]
    reply = changes.from_tensors([("diffusion_head.weight", good), (name, tensor)])
    assert reply.status_code == changes.refusal
    assert said in reply.text
    assert "none of the 2 tensors sent with it was taken" in reply.text
    for mode in MODES:
        running.check([Case(CASE.prompt, 40, {"decoding_mode": mode}, ignore_eos=True)])


@pytest.mark.parametrize("level", [1, 2])
def test_after_sleep(level: int, running: Running, changes: Updates, other: Path) -> None:
    """After level 2 the weights are loaded anew; the adapter comes through either."""
    changes.sleep_and_wake(level)
    if level == 2:
        changes.serve(other)
    check_every_mode(running)


@pytest.mark.long
@pytest.mark.parametrize("pausing", [False, True], ids=["running", "paused"])
def test_while_requests_run(pausing: bool, running: Running, changes: Updates, other: Path) -> None:
    """Answers may be of either weights; nothing crashes, nobody waits for ever, and no KV is lost."""
    vocab = running.reference.config.vocab_size
    for number, folder in enumerate((other, TRAINED) * 4):
        cases = mixed_cases(vocab, seed=40 + number, most_tokens=60)
        start = running.client.metrics().forwards("ar")
        with running.client.in_background(cases) as answers:
            while running.client.metrics().forwards("ar") == start:
                time.sleep(0.01)
            with changes.paused() if pausing else nullcontext():
                assert changes.from_disk(folder).status_code == 200
        assert [answer.finish_reason in ("length", "stop") for answer in answers] == [True] * len(cases)
    assert running.idle()
    changes.serve(other)
    check_every_mode(running)
    running.check(mixed_cases(vocab, seed=50, most_tokens=60))
