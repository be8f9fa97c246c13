import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.commit import Rule, Rules, commit
from nemotron_diffusion_plugin.options import CommitRule, DecodingOptions
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose
from nemotron_diffusion_plugin.rules.stop import ends_block

MASK = 100
STOP = 7


@dataclasses.dataclass
class Step:
    """The arguments of one denoise step's commit."""

    tokens: torch.Tensor
    masked: torch.Tensor
    step: torch.Tensor
    num_masks: torch.Tensor
    picked: torch.Tensor
    confidence: torch.Tensor
    rules: Rules
    stop_token_ids: torch.Tensor | None = None

    def run(self, backend, device="cpu"):
        """The state after the step on `backend`: tokens, masked, step, finished, all on the CPU."""
        values = {
            name: value.clone().to(device) if isinstance(value, torch.Tensor) else value
            for name, value in vars(self).items()
        }
        values["rules"] = Rules(*(value.to(device) for value in dataclasses.astuple(self.rules)))
        finished = commit(**values, backend=backend)
        return [values[name].cpu() for name in ("tokens", "masked", "step")] + [finished.cpu()]


def rules_of(options):
    return Rules(**vars(CommitRules.of(options)))


def random_step(rows, block_size, options, seed=0, stops=True, levels=None):
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(rows, block_size, generator=generator) < 0.7
    masked[0] = False
    tokens = torch.randint(0, 50, (rows, block_size), generator=generator).masked_fill(masked, MASK)
    confidence = torch.rand(rows, block_size, generator=generator)
    if levels is not None:
        confidence = (confidence * levels).round() / levels
    num_masks = torch.maximum(masked.sum(1), torch.randint(0, block_size + 1, (rows,), generator=generator))
    stop_token_ids = torch.tensor([[STOP, -1], [-1, -1], [3, STOP]])[torch.arange(rows) % 3]
    return Step(
        tokens,
        masked,
        torch.randint(0, block_size, (rows,), generator=generator),
        num_masks,
        torch.randint(0, 50, (rows, block_size), generator=generator),
        confidence,
        rules_of([options[row % len(options)] for row in range(rows)]),
        stop_token_ids if stops else None,
    )


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


EVERY_RULE = [
    DecodingOptions(commit_rule=rule, threshold=threshold, denoising_steps=steps)
    for rule in CommitRule
    for threshold, steps in ((0.6, None), (0.9, 5))
]


def test_rules_have_the_numbers_of_the_plugin():
    assert [rule.name for rule in Rule] == [rule.name for rule in CommitRule]
    assert list(Rule) == list(range(len(CommitRule)))


@pytest.mark.parametrize("block_size", [1, 2, 7, 32, 33])
def test_matches_the_reference(block_size, device):
    for seed in range(2):
        step = random_step(10, block_size, EVERY_RULE, seed=seed, stops=seed == 0)
        assert_same(step.run("triton", device), step.run("torch"))


def test_matches_the_plugin(device):
    step = random_step(20, 12, EVERY_RULE, levels=8)
    block = BlockState(step.tokens.clone(), step.masked.clone(), torch.full((20,), 12), step.step.clone())
    rules = CommitRules(*dataclasses.astuple(step.rules))
    block.commit(step.picked, choose(step.confidence, block.masked, block.step, step.num_masks, rules))
    is_stop = (block.tokens[:, :, None] == step.stop_token_ids[:, None]).any(dim=2)
    finished = block.finished | ends_block(block.tokens, block.masked, is_stop)
    for backend in ("torch", "triton"):
        result = step.run(backend, device if backend == "triton" else "cpu")
        assert_same(result, [block.tokens, block.masked, block.step, finished])


def one_row(confidence, rule, *, stop=None, picked=None, **options):
    """Tokens and finished of one row on the Triton backend; None marks a position that is not masked."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masked = torch.tensor([[value is not None for value in confidence]])
    step = Step(
        torch.where(masked, MASK, 1),
        masked,
        torch.zeros(1, dtype=torch.int64),
        masked.sum(1),
        torch.tensor([picked or list(range(10, 10 + len(confidence)))]),
        torch.tensor([[0.99 if value is None else value for value in confidence]]),
        rules_of([DecodingOptions(commit_rule=rule, **options)]),
        None if stop is None else torch.tensor([[stop]]),
    )
    tokens, _, _, finished = step.run("triton", device)
    return tokens[0].tolist(), finished.item()


def test_the_most_confident_position_always_commits():
    assert one_row([None, 0.1, 0.3, 0.3], CommitRule.THRESHOLD) == ([1, MASK, 12, MASK], False)


def test_the_last_mask_finishes_the_block():
    assert one_row([None, None, 0.1], CommitRule.THRESHOLD) == ([1, 1, 12], True)
    assert one_row([None, None], CommitRule.FIXED) == ([1, 1], True)


def test_a_stop_token_with_no_mask_before_it_finishes_the_block():
    row = {"rule": CommitRule.THRESHOLD, "stop": STOP, "picked": [0, STOP, 12, 13]}
    assert one_row([None, 0.95, 0.1, 0.2], **row) == ([1, STOP, MASK, MASK], True)
    row["picked"] = [0, 11, STOP, 13]
    assert one_row([None, 0.1, 0.95, 0.2], **row) == ([1, MASK, STOP, MASK], False)
    assert one_row([None, 0.1, 0.95, 0.2], **{**row, "stop": 1}) == ([1, MASK, STOP, MASK], True)


def test_the_mask_id_as_a_stop_token_of_a_masked_position_does_not_finish():
    assert one_row([None, 0.1, 0.2], CommitRule.THRESHOLD, stop=MASK) == ([1, MASK, 12], False)


def test_a_confidence_that_is_nan_still_ends_the_block(device):
    step = random_step(10, 8, EVERY_RULE)
    step.confidence[:, ::2] = torch.nan
    for _ in range(8):
        before = step.masked.sum(1)
        result = step.run("triton", device)
        assert_same(result, step.run("torch"))
        step.tokens, step.masked, step.step = result[:3]
        assert ((step.masked.sum(1) < before) | (before == 0)).all()
    assert not step.masked.any()


@pytest.mark.parametrize("place", [0, 2, 3, 99])
def test_every_stop_token_counts(place, device):
    """Of as many as a server allows, and what pads them ends nothing."""
    step = random_step(2, 4, EVERY_RULE[:1])
    step.masked[1] = torch.tensor([False, True, True, True])
    step.confidence[1] = 0.0
    step.stop_token_ids = torch.full((2, 100), -1)
    for stop, finished in ((int(step.tokens[1, 0]), True), (10**6, False)):
        step.stop_token_ids[1, place] = stop
        assert step.run("triton", device)[3].tolist() == [True, finished]


def test_no_rows_and_no_stop_tokens(device):
    step = random_step(1, 4, EVERY_RULE)
    empty = Step(
        *(value[:0] for value in list(vars(step).values())[:6]),
        Rules(*(value[:0] for value in dataclasses.astuple(step.rules))),
        torch.empty(0, 3, dtype=torch.int64),
    )
    assert empty.run("triton", device)[3].shape == (0,)
    step.stop_token_ids = torch.empty(1, 0, dtype=torch.int64)
    assert_same(step.run("triton", device), step.run("torch"))


def test_rows_of_wider_buffers(device):
    step = random_step(6, 9, EVERY_RULE, seed=4)
    wanted = step.run("torch")
    wide = {}
    for name in ("tokens", "masked", "picked", "confidence"):
        value = getattr(step, name).to(device)
        buffer = torch.zeros(6, 40, dtype=value.dtype, device=device)
        buffer[:, 11:20] = value
        wide[name] = buffer
    count = step.step.to(device)
    finished = commit(
        wide["tokens"][:, 11:20],
        wide["masked"][:, 11:20],
        count,
        step.num_masks.to(device),
        wide["picked"][:, 11:20],
        wide["confidence"][:, 11:20],
        Rules(*(value.to(device) for value in dataclasses.astuple(step.rules))),
        step.stop_token_ids.to(device),
        backend="triton",
    )
    assert_same(
        [wide["tokens"][:, 11:20].cpu(), wide["masked"][:, 11:20].cpu(), count.cpu(), finished.cpu()], wanted
    )
    assert not wide["tokens"][:, :11].any()
    assert not wide["tokens"][:, 20:].any()


def test_every_output_is_written(device, monkeypatch):
    step = random_step(6, 9, EVERY_RULE, seed=2)
    wanted = step.run("torch")
    empty = torch.Tensor.new_empty
    for poison in (False, True):
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, p=poison, **k: empty(*a, **k).fill_(p))
        assert_same(step.run("triton", device), wanted)


OPTIONS = st.builds(
    DecodingOptions,
    threshold=st.sampled_from([0.25, 0.5, 0.7, 0.9, 1.0]),
    denoising_steps=st.none() | st.integers(1, 20),
    commit_rule=st.sampled_from(list(CommitRule)),
    tokens_per_step=st.integers(1, 5),
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    block_size=st.integers(1, 20),
    options=st.lists(OPTIONS, min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    levels=st.sampled_from([None, 2, 10]),
)
def test_any_batch_matches_the_reference(rows, block_size, options, seed, levels):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = random_step(rows, block_size, options, seed=seed, levels=levels)
    assert_same(step.run("triton", device), step.run("torch"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, "tokens has shape"),
        ({"tokens": torch.zeros(3, 0, dtype=torch.int64)}, "the block size is 0, expected 1 to 128"),
        ({"tokens": torch.zeros(3, 4, dtype=torch.int32)}, "tokens is int32, expected int64"),
        ({"masked": torch.zeros(3, 4)}, "masked is float32, expected bool"),
        ({"confidence": torch.zeros(3, 5)}, r"confidence has shape \(3, 5\), expected \(3, 4\)"),
        ({"picked": torch.zeros(4, 3, dtype=torch.int64).T}, "picked has stride 3 in its last dimension"),
        ({"step": torch.zeros(2, dtype=torch.int64)}, "step has shape"),
        ({"stop_token_ids": torch.zeros(3, dtype=torch.int64)}, "stop_token_ids has shape"),
        ({"rules": rules_of([DecodingOptions()])}, r"rules.kind has shape \(1,\), expected \(3\)"),
        ({"backend": "numpy"}, "got backend 'numpy'"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(changes, message):
    arguments = {**vars(random_step(3, 4, EVERY_RULE)), "backend": "torch", **changes}
    with pytest.raises(ValueError, match=message):
        commit(**arguments)
