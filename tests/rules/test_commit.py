import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.options import CommitRule, DecodingOptions
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules, choose, scheduled_count

MASK = 100


def chosen(confidence, rule, *, masked=None, step=0, num_masks=None, **options):
    """The positions one row commits."""
    masked = [value is not None for value in confidence] if masked is None else masked
    values = torch.tensor([[0.99 if value is None else value for value in confidence]])
    count = sum(masked) if num_masks is None else num_masks
    rules = CommitRules.of([DecodingOptions(commit_rule=rule, **options)])
    picked = choose(values, torch.tensor([masked]), torch.tensor([step]), torch.tensor([count]), rules)
    return picked[0].nonzero().flatten().tolist()


def test_threshold_commits_all_certain_positions():
    assert chosen([None, 0.95, 0.2, 0.9, 0.5], CommitRule.THRESHOLD) == [1, 3]


def test_threshold_always_commits_the_most_confident():
    assert chosen([None, 0.1, 0.3, 0.2], CommitRule.THRESHOLD) == [2]
    assert chosen([None, 0.3, 0.3, 0.3], CommitRule.THRESHOLD) == [1]
    assert chosen([0.3, None, 0.2], CommitRule.THRESHOLD) == [0]


def test_threshold_one_commits_only_certainty():
    assert chosen([None, 1.0, 0.999, 1.0], CommitRule.THRESHOLD, threshold=1.0) == [1, 3]


def test_step_bound_forces_the_schedule_on_top_of_the_threshold():
    confidence = [None, 0.1, 0.5, 0.3, 0.95, 0.2, 0.4, 0.05]
    assert chosen(confidence, CommitRule.THRESHOLD, denoising_steps=3, step=0) == [2, 4, 6]
    assert chosen(confidence, CommitRule.THRESHOLD, denoising_steps=7) == [4]
    assert chosen(confidence, CommitRule.THRESHOLD, denoising_steps=1) == [1, 2, 3, 4, 5, 6, 7]


def test_schedule_splits_evenly_with_the_remainder_first():
    rules = CommitRules.of([DecodingOptions(commit_rule=CommitRule.SCHEDULE, denoising_steps=3)] * 4)
    step, masks = torch.arange(4), torch.full((4,), 8)
    assert scheduled_count(step, masks, rules).tolist() == [3, 3, 2, 2]
    confidence = [None, 0.95, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert chosen(confidence, CommitRule.SCHEDULE, denoising_steps=3) == [1, 2, 8]


def test_schedule_without_steps_is_one_a_step():
    assert chosen([None, 0.99, 0.98, 0.97], CommitRule.SCHEDULE) == [1]


def test_schedule_with_more_steps_than_masks_is_one_a_step():
    confidence = [None, 0.99, 0.98, 0.97]
    for step in range(3):
        assert chosen(confidence, CommitRule.SCHEDULE, denoising_steps=30, step=step) == [1]


def test_threshold_bound_commits_a_position_that_is_certain_enough_for_its_place():
    # place k needs 1 - 2 / (k + 2): 0, 1/3, 1/2, 3/5, 2/3, and never less than 0.45
    confidence = [None, 0.7, 0.65, 0.62, 0.61, 0.6]
    assert chosen(confidence, CommitRule.THRESHOLD_BOUND) == [1, 2, 3, 4]
    assert chosen([None, 0.46, 0.44, 0.3], CommitRule.THRESHOLD_BOUND) == [1]
    assert chosen([None, 0.2, 0.44, 0.3], CommitRule.THRESHOLD_BOUND) == [2]
    assert chosen([None, 0.46, 0.46, 0.46], CommitRule.THRESHOLD_BOUND) == [1, 2]
    assert chosen([None, *[0.91] * 30], CommitRule.THRESHOLD_BOUND) == list(range(1, 31))
    assert chosen([None, *[0.89] * 30], CommitRule.THRESHOLD_BOUND) == list(range(1, 18))


def test_cumulative_error_multiplies_from_the_most_confident():
    # 0.99, 0.99 * 0.95 = 0.9405, 0.9405 * 0.9 = 0.846
    assert chosen([None, 0.9, 0.99, 0.95], CommitRule.CUMULATIVE_ERROR, threshold=0.9) == [2, 3]
    assert chosen([None, 0.9, 0.99, 0.95], CommitRule.CUMULATIVE_ERROR, threshold=0.8) == [1, 2, 3]
    assert chosen([None, 0.5, 0.6], CommitRule.CUMULATIVE_ERROR, threshold=0.9) == [2]


def test_the_product_is_rounded_once_whatever_the_device_does_in_float32(monkeypatch):
    """A GPU rounds a float32 product after every factor; a CPU does not, so the test makes it."""
    plain = torch.Tensor.cumprod

    def rounded_after_every_factor(values, dim):
        if values.dtype != torch.float32:
            return plain(values, dim)
        return torch.from_numpy(np.multiply.accumulate(values.numpy(), axis=dim))

    for owner in (torch, torch.Tensor):
        monkeypatch.setattr(owner, "cumprod", rounded_after_every_factor)
    confidence = np.sort(np.random.default_rng(0).uniform(0.99, 1.0, 31).astype(np.float32))[::-1]
    exact = np.multiply.accumulate(confidence.astype(np.float64)).astype(np.float32)
    differing = np.flatnonzero(exact != np.multiply.accumulate(confidence))
    assert len(differing) > 5
    for place in differing:
        above = np.nextafter(exact[place], np.float32(1.0))
        for threshold, count in ((exact[place], place + 1), (above, place)):
            options = {"rule": CommitRule.CUMULATIVE_ERROR, "threshold": float(threshold)}
            assert chosen([None, *confidence.tolist()], **options) == list(range(1, count + 1))


NAN = math.nan


@pytest.mark.parametrize("rule", CommitRule)
def test_a_confidence_that_is_nan_comes_after_every_finite_one(rule):
    assert chosen([None, NAN, 0.1, 0.3, NAN], rule) == [3]
    assert chosen([None, NAN, 0.0, NAN], rule) == [2]
    assert chosen([None, NAN, 0.1, NAN, 0.05], rule, denoising_steps=2) == [2, 4]
    assert chosen([None, NAN, 0.1, NAN, 0.05], rule, denoising_steps=1) == [1, 2, 3, 4]
    assert chosen([NAN, None, NAN, NAN], rule) == [0]


def test_a_confidence_that_is_nan_reaches_no_threshold():
    confidence = [None, NAN, 0.9, NAN, 0.95, NAN]
    for rule in (CommitRule.THRESHOLD, CommitRule.THRESHOLD_BOUND, CommitRule.CUMULATIVE_ERROR):
        assert chosen(confidence, rule, threshold=0.5) == [2, 4]
    assert chosen(confidence, CommitRule.FIXED, tokens_per_step=4) == [1, 2, 3, 4]


def test_what_positions_without_a_mask_hold_does_not_matter():
    masked = [False, True, False, True, False]
    for other in (0.0, 1.0, NAN, math.inf, -3.0):
        confidence = [other, 0.4, other, NAN, other]
        for rule in CommitRule:
            assert chosen(confidence, rule, masked=masked, num_masks=4, threshold=0.1) == [1]


def test_fixed_commits_a_number_a_step():
    confidence = [None, 0.1, 0.4, 0.3, 0.2]
    assert chosen(confidence, CommitRule.FIXED) == [2]
    assert chosen(confidence, CommitRule.FIXED, tokens_per_step=3) == [2, 3, 4]
    assert chosen(confidence, CommitRule.FIXED, tokens_per_step=10**30) == [1, 2, 3, 4]


def test_nothing_masked_commits_nothing():
    for rule in CommitRule:
        assert chosen([0.99, 0.9], rule, masked=[False, False], num_masks=0) == []


def test_rows_of_a_batch_follow_their_own_rules():
    options = [DecodingOptions(commit_rule=rule, threshold=0.6) for rule in CommitRule]
    confidence = torch.rand(1, 16).repeat(len(options), 1)
    masked = torch.ones(len(options), 16, dtype=torch.bool)
    masked[:, 0] = False
    step, masks = torch.zeros(len(options), dtype=torch.int64), torch.full((len(options),), 15)
    batch = choose(confidence, masked, step, masks, CommitRules.of(options))
    for row, option in enumerate(options):
        one = slice(row, row + 1)
        alone = choose(confidence[one], masked[one], step[one], masks[one], CommitRules.of([option]))
        assert torch.equal(batch[one], alone)


def plain_choice(confidence, masked, step, num_masks, options):
    """The commit rules (docs/model.md, 3.2) in plain Python, one row."""
    places = [place for place in range(len(masked)) if masked[place]]
    finite = sorted((i for i in places if not math.isnan(confidence[i])), key=lambda i: (-confidence[i], i))
    order = finite + [i for i in places if math.isnan(confidence[i])]
    if not order:
        return set()
    steps = min(options.denoising_steps, options.block_size) if options.denoising_steps else None
    divisor = steps or num_masks
    scheduled = num_masks // divisor + (1 if step < num_masks % divisor else 0)
    kept = 1
    running = 1.0
    for place, index in enumerate(order):
        p = confidence[index]
        running *= p
        if options.commit_rule is CommitRule.THRESHOLD:
            commit = p >= options.threshold
        elif options.commit_rule is CommitRule.SCHEDULE:
            commit = place < scheduled
        elif options.commit_rule is CommitRule.THRESHOLD_BOUND:
            commit = p >= options.threshold or (p >= 0.45 and p >= 1 - 2.0 / (place + 2))
        elif options.commit_rule is CommitRule.CUMULATIVE_ERROR:
            commit = running >= options.threshold
        else:
            commit = place < options.tokens_per_step
        if commit or (steps and place < scheduled):
            kept = max(kept, place + 1)
    return set(order[:kept])


OPTIONS = st.builds(
    DecodingOptions,
    threshold=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    denoising_steps=st.none() | st.integers(1, 40),
    commit_rule=st.sampled_from(list(CommitRule)),
    tokens_per_step=st.integers(1, 5),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_agrees_with_plain_python(data):
    length = data.draw(st.integers(1, 12))
    # multiples of 1/16 keep sums and products of float32 and Python equal
    values = st.integers(0, 16).map(lambda n: n / 16) | st.just(NAN)
    confidence = data.draw(st.lists(values, min_size=length, max_size=length))
    masked = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    num_masks = data.draw(st.integers(max(1, sum(masked)), max(1, length)))
    step = data.draw(st.integers(0, 12))
    options = data.draw(OPTIONS)
    result = choose(
        torch.tensor([confidence]),
        torch.tensor([masked]),
        torch.tensor([step]),
        torch.tensor([num_masks]),
        CommitRules.of([options]),
    )
    assert set(result[0].nonzero().flatten().tolist()) == plain_choice(
        confidence, masked, step, num_masks, options
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_block_ends_within_the_step_bound_and_holds_no_mask_id(data):
    rows = data.draw(st.integers(1, 4))
    block_size = data.draw(st.integers(1, 12))
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, block_size), min_size=rows, max_size=rows)))
    options = data.draw(st.lists(OPTIONS, min_size=rows, max_size=rows))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    seeds = torch.randint(101, 200, (rows,), generator=generator)
    block = BlockState.start(seeds, lengths, block_size, MASK)
    rules = CommitRules.of(options)
    bounds = [
        min(option.denoising_steps or 10**9, int(n) - 1) for option, n in zip(options, lengths, strict=True)
    ]
    for _ in range(max(bounds)):
        before = block.masked.clone()
        picked = torch.randint(101, 200, (rows, block_size), generator=generator)
        confidence = torch.rand(rows, block_size, generator=generator)
        confidence[torch.rand(rows, block_size, generator=generator) < 0.2] = NAN
        selected = choose(confidence, block.masked, block.step, lengths - 1, rules)
        assert not (selected & ~before).any()
        assert torch.equal(selected.any(dim=1), before.any(dim=1))
        block.commit(picked, selected)
        assert not (block.masked & ~before).any()
    assert block.finished.all()
    assert all(step <= bound for step, bound in zip(block.step.tolist(), bounds, strict=True))
    assert not (block.tokens[block.in_block] == MASK).any()
    assert torch.equal(block.tokens[:, 0], seeds)


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 31, 100])
def test_the_bounded_schedule_covers_the_block_exactly(steps):
    rules = CommitRules.of([DecodingOptions(denoising_steps=steps)])
    counts = [
        int(scheduled_count(torch.tensor([s]), torch.tensor([31]), rules)) for s in range(min(steps, 31))
    ]
    assert sum(counts) == 31
    assert counts == sorted(counts, reverse=True)
