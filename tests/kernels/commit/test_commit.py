import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.commit import commit
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
    rules: CommitRules
    stop_token_ids: torch.Tensor

    def on(self, device):
        """The arguments of the kernel, copies on a device."""
        tensors = {name: value for name, value in vars(self).items() if name != "rules"}
        return {name: value.clone().to(device) for name, value in {**tensors, **vars(self.rules)}.items()}

    def by_kernel(self, device):
        """The state after the step: tokens, masked, step, finished, all on the CPU."""
        values = self.on(device)
        finished = commit(**values)
        return [*(values[name].cpu() for name in ("tokens", "masked", "step")), finished.cpu()]

    def by_rules(self):
        """The same by the rules."""
        length = torch.full_like(self.step, self.tokens.shape[1])
        block = BlockState(self.tokens.clone(), self.masked.clone(), length, self.step.clone())
        block.commit(self.picked, choose(self.confidence, self.masked, self.step, self.num_masks, self.rules))
        is_stop = (block.tokens[:, :, None] == self.stop_token_ids[:, None]).any(dim=2)
        finished = block.finished | ends_block(block.tokens, block.masked, is_stop & ~block.masked)
        return [block.tokens, block.masked, block.step, finished]


def random_step(rows, block_size, options, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(rows, block_size, generator=generator) < 0.7
    masked[0] = False
    tokens = torch.randint(0, 50, (rows, block_size), generator=generator).masked_fill(masked, MASK)
    confidence = torch.rand(rows, block_size, generator=generator)
    if levels is not None:
        confidence = (confidence * levels).round() / levels
    num_masks = torch.maximum(masked.sum(1), torch.randint(0, block_size + 1, (rows,), generator=generator))
    return Step(
        tokens,
        masked,
        torch.randint(0, block_size, (rows,), generator=generator),
        num_masks,
        torch.randint(0, 50, (rows, block_size), generator=generator),
        confidence,
        CommitRules.of([options[row % len(options)] for row in range(rows)]),
        torch.tensor([[STOP, -1], [-1, -1], [3, STOP]])[torch.arange(rows) % 3],
    )


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


EVERY_RULE = [
    DecodingOptions(commit_rule=rule, threshold=threshold, denoising_steps=steps, tokens_per_step=2)
    for rule in CommitRule
    for threshold, steps in ((0.6, None), (0.9, 5))
]


@pytest.mark.parametrize("block_size", [1, 2, 7, 32, 33])
def test_matches_the_rules(block_size, device):
    for seed, levels in ((0, None), (1, 8)):
        step = random_step(20, block_size, EVERY_RULE, seed, levels)
        assert_same(step.by_kernel(device), step.by_rules())


def test_products_that_meet_the_threshold_to_the_last_bit(device):
    """As long as a block, each factor near 1, and thresholds at the product and just above it."""
    rows = 64
    step = random_step(rows, 32, [DecodingOptions(commit_rule=CommitRule.CUMULATIVE_ERROR)])
    step.masked[:], step.num_masks[:] = True, 32
    step.confidence = 0.99 + 0.01 * torch.rand(rows, 32, generator=torch.Generator().manual_seed(3))
    exact = step.confidence.double().sort(dim=1, descending=True).values.cumprod(dim=1).float()
    at = exact[torch.arange(rows), torch.arange(rows) // 2]
    step.rules.threshold = torch.where(torch.arange(rows) % 2 == 0, at, at.nextafter(torch.ones(())))
    result = step.by_kernel(device)
    assert_same(result, step.by_rules())
    taken = 32 - result[1].sum(dim=1)
    assert torch.equal(taken, (torch.arange(rows) // 2 + 1 - torch.arange(rows) % 2).clamp(min=1))


def test_confidences_at_the_bound_of_their_place(device):
    step = random_step(31, 32, [DecodingOptions(commit_rule=CommitRule.THRESHOLD_BOUND, threshold=1.0)])
    step.masked[:], step.num_masks[:] = True, 32
    needed = (1.0 - 2.0 / (torch.arange(32) + 2)).clamp(min=0.45)
    for near in (needed, needed.nextafter(torch.ones(())), needed.nextafter(torch.zeros(()))):
        step.confidence = near[:31, None].repeat(1, 32).tril()
        assert_same(step.by_kernel(device), step.by_rules())


def one_row(confidence, rule, *, stop=-1, picked=None, **options):
    """Tokens and finished of one row; None marks a position that is not masked."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masked = torch.tensor([[value is not None for value in confidence]])
    step = Step(
        torch.where(masked, MASK, 1),
        masked,
        torch.zeros(1, dtype=torch.int64),
        masked.sum(1),
        torch.tensor([picked or list(range(10, 10 + len(confidence)))]),
        torch.tensor([[0.99 if value is None else value for value in confidence]]),
        CommitRules.of([DecodingOptions(commit_rule=rule, **options)]),
        torch.tensor([[stop]]),
    )
    tokens, _, _, finished = step.by_kernel(device)
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


def test_a_confidence_that_is_nan_commits_last_and_the_block_still_ends(device):
    step = random_step(20, 8, EVERY_RULE)
    step.confidence[:, ::2] = torch.nan
    for _ in range(8):
        before = step.masked
        result = step.by_kernel(device)
        assert_same(result, step.by_rules())
        step.tokens, step.masked, step.step = result[:3]
        assert torch.equal((before & ~step.masked).any(dim=1), before.any(dim=1))
        waits = (step.masked & ~step.confidence.isnan()).any(dim=1)
        assert not (before & ~step.masked & step.confidence.isnan())[waits].any()
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
        assert step.by_kernel(device)[3].tolist() == [True, finished]


def test_no_rows_and_no_stop_tokens(device):
    step = random_step(1, 4, EVERY_RULE)
    empty = {name: value[:0] for name, value in step.on(device).items()}
    assert commit(**empty).shape == (0,)
    step.stop_token_ids = torch.empty(1, 0, dtype=torch.int64)
    assert_same(step.by_kernel(device), step.by_rules())


def test_rows_of_wider_buffers(device):
    step = random_step(6, 9, EVERY_RULE, seed=4)
    values, wide = step.on(device), {}
    for name in ("tokens", "masked", "picked", "confidence"):
        wide[name] = torch.zeros(6, 40, dtype=values[name].dtype, device=device)
        wide[name][:, 11:20] = values[name]
        values[name] = wide[name][:, 11:20]
    finished = commit(**values)
    result = [values["tokens"], values["masked"], values["step"], finished]
    assert_same([value.cpu() for value in result], step.by_rules())
    assert not wide["tokens"][:, :11].any()
    assert not wide["tokens"][:, 20:].any()


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 2 GB that only a CPU leaves untouched")
    step = random_step(3, 9, EVERY_RULE, seed=5)
    values, far = step.on(device), 2**30 + 4096  # fits into 32 bits, the third row's place does not
    storage = torch.empty(2 * far + 9, dtype=torch.bool)  # memory that nobody touches costs nothing
    values["masked"] = storage.as_strided((3, 9), (far, 1))
    values["masked"].copy_(step.masked)
    finished = commit(**values)
    assert_same([*(values[name] for name in ("tokens", "masked", "step")), finished], step.by_rules())


def test_every_output_is_written(device, monkeypatch):
    step = random_step(6, 9, EVERY_RULE, seed=2)
    wanted = step.by_rules()
    empty = torch.Tensor.new_empty
    for poison in (False, True):
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, p=poison, **k: empty(*a, **k).fill_(p))
        assert_same(step.by_kernel(device), wanted)


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
    undefined=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_batch_matches_the_rules(rows, block_size, options, seed, levels, undefined):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = random_step(rows, block_size, options, seed, levels)
    draws = torch.rand(rows, block_size, generator=torch.Generator().manual_seed(seed))
    step.confidence[draws < undefined] = torch.nan
    assert_same(step.by_kernel(device), step.by_rules())


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
        ({"num_masks": torch.zeros(3, dtype=torch.int32)}, "num_masks is int32, expected int64"),
        ({"stop_token_ids": torch.zeros(3, dtype=torch.int64)}, "stop_token_ids has shape"),
        ({"kind": torch.zeros(1, dtype=torch.int64)}, r"kind has shape \(1,\), expected \(3\)"),
        ({"threshold": torch.zeros(3, dtype=torch.float64)}, "threshold is float64, expected float32"),
        ({"steps": torch.zeros(3)}, "steps is float32, expected int64"),
        ({"tokens_per_step": torch.zeros(2, dtype=torch.int64)}, "tokens_per_step has shape"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        commit(**{**random_step(3, 4, EVERY_RULE).on("cpu"), **changes})
