import pytest
import torch

from nemotron_diffusion_plugin.options import CommitRule, DecodingMode, DecodingOptions
from tests.reference.scripted import MASK, STOP, decoder

AR = DecodingOptions(decoding_mode=DecodingMode.AR)
TEXT = [0, 0, 0, *range(20, 80)]  # the prompt is positions 0 to 2, the first new token is 20


def diffusion(block_size=4, **options):
    return DecodingOptions(decoding_mode=DecodingMode.DIFFUSION, block_size=block_size, **options)


def speculation(block_size=4, **options):
    return DecodingOptions(block_size=block_size, **options)


def test_ar_is_one_forward_a_token_and_none_for_the_seed():
    reference, model = decoder(TEXT)
    result = reference.generate([5, 6, 7], 4, AR)
    assert result.token_ids == [20, 21, 22, 23]
    assert result.finish_reason == "length"
    assert (result.verify_forwards, result.draft_forwards, result.denoise_forwards) == (3, 0, 0)
    assert model.forwards == [
        ("causal", [5, 6, 7], 0, None),
        ("causal", [20], 3, None),
        ("causal", [21], 4, None),
        ("causal", [22], 5, None),
    ]
    assert result.tokens_per_forward == 4 / 3


@pytest.mark.parametrize("options", [AR, diffusion(), speculation()])
def test_one_token_takes_the_prefill_only(options):
    reference, model = decoder(TEXT)
    result = reference.generate([5, 6, 7], 1, options)
    assert (result.token_ids, result.finish_reason) == ([20], "length")
    assert result.forwards == 0
    assert (result.tokens_per_forward, result.acceptance_length) == (0.0, 0.0)
    assert len(model.forwards) == 1


@pytest.mark.parametrize("options", [AR, diffusion(), speculation()])
def test_a_seed_that_is_a_stop_token_ends_the_request(options):
    reference, _ = decoder([0, 0, 0, STOP, 30])
    result = reference.generate([5, 6, 7], 10, options)
    assert (result.token_ids, result.finish_reason, result.forwards) == ([STOP], "stop", 0)


def test_diffusion_starts_from_the_seed_and_commits_by_threshold():
    drafts = {4: (41, 0.95), 5: (42, 0.5), 6: (43, 0.92), 8: (44, 0.2), 9: (45, 0.4), 10: (46, 0.3)}
    reference, model = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 8, diffusion())
    assert result.token_ids == [20, 41, 42, 43, 24, 44, 45, 46]
    assert result.denoise_steps == [2, 3]
    assert (result.denoise_forwards, result.verify_forwards, result.draft_forwards) == (5, 2, 0)
    assert model.forwards[1:] == [
        ("block", [20, MASK, MASK, MASK], 3, None),
        ("block", [20, 41, MASK, 43], 3, None),
        ("causal", [20, 41, 42, 43], 3, None),
        ("block", [24, MASK, MASK, MASK], 7, None),
        ("block", [24, MASK, 45, MASK], 7, None),
        ("block", [24, MASK, 45, 46], 7, None),
        ("causal", [24, 44, 45, 46], 7, None),
    ]


def test_diffusion_with_a_schedule():
    drafts = {4 + i: (41 + i, 0.1 * (i + 1)) for i in range(7)}
    reference, model = decoder(TEXT, drafts)
    result = reference.generate(
        [5, 6, 7], 8, diffusion(8, commit_rule=CommitRule.SCHEDULE, denoising_steps=3)
    )
    assert result.denoise_steps == [3]
    masks = [sum(token == MASK for token in tokens) for kind, tokens, *_ in model.forwards if kind == "block"]
    assert masks == [7, 4, 2]


def test_diffusion_block_is_denoised_in_full_and_then_trimmed():
    drafts = {position: (position + 30, 0.99) for position in range(4, 40)}
    reference, model = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 6, diffusion())
    assert result.token_ids == [20, 34, 35, 36, 24, 38]
    assert (result.denoise_steps, result.verify_forwards) == ([1, 1], 2)
    assert model.forwards[-1][1] == [24, 38, 39, 40]


def test_a_stop_token_without_a_mask_before_it_ends_denoising_and_still_runs_the_commit_pass():
    drafts = {4: (41, 0.95), 5: (STOP, 0.95), 6: (43, 0.1)}
    reference, model = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 20, diffusion())
    assert (result.token_ids, result.finish_reason) == ([20, 41, STOP], "stop")
    assert (result.denoise_steps, result.verify_forwards) == ([1], 1)
    assert model.forwards[-1] == ("causal", [20, 41, STOP, MASK], 3, None)


def test_a_stop_token_behind_a_mask_does_not_end_denoising_yet():
    drafts = {4: (41, 0.3), 5: (STOP, 0.95), 6: (43, 0.2)}
    reference, _ = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 20, diffusion())
    assert (result.token_ids, result.denoise_steps) == ([20, 41, STOP], [2])


def test_ignore_eos_and_min_tokens():
    drafts = {4: (41, 0.95), 5: (STOP, 0.95), 6: (43, 0.1), 8: (STOP, 0.99), 9: (45, 0.1), 10: (46, 0.1)}
    reference, _ = decoder(TEXT, drafts)
    ignoring = reference.generate([5, 6, 7], 6, diffusion(), ignore_eos=True)
    assert (ignoring.token_ids, ignoring.finish_reason) == ([20, 41, STOP, 43, 24, STOP], "length")
    assert ignoring.denoise_steps == [2, 3]
    later = reference.generate([5, 6, 7], 20, diffusion(), min_tokens=4)
    assert (later.token_ids, later.finish_reason) == ([20, 41, STOP, 43, 24, STOP], "stop")
    assert later.denoise_steps == [2, 1]


def test_the_mask_id_is_never_committed_but_may_be_a_prompt_token_and_an_ar_token():
    text = [0, 0, 0, MASK, MASK, 30, 31, 32, 33, 34]
    drafts = {4: (MASK, 0.9), 5: (42, 0.95), 6: (43, 0.95)}
    reference, model = decoder(text, drafts)
    result = reference.generate([5, MASK, MASK], 4, diffusion())
    assert result.token_ids[0] == MASK
    assert MASK not in result.token_ids[1:]
    assert model.forwards[0] == ("causal", [5, MASK, MASK], 0, None)
    assert model.forwards[1] == ("block", [MASK, MASK, MASK, MASK], 3, None)
    assert reference.generate([5, MASK, MASK], 2, AR).token_ids == [MASK, MASK]


def test_speculation_accepts_the_longest_prefix_and_adds_the_correction():
    drafts = {4: (21, 0.5), 5: (22, 0.5), 6: (99, 0.5), 7: (24, 0.5), 8: (25, 0.5), 9: (26, 0.5)}
    adapter = object()
    reference, model = decoder(TEXT, drafts, lora=adapter)
    result = reference.generate([5, 6, 7], 7, speculation())
    assert result.token_ids == [20, 21, 22, 23, 24, 25, 26]
    assert result.accepted == [2, 3]
    assert result.acceptance_length == 3.5
    assert (result.draft_forwards, result.verify_forwards, result.denoise_forwards) == (2, 2, 0)
    assert model.forwards[1:] == [
        ("block", [20, MASK, MASK, MASK], 3, adapter),
        ("causal", [20, 21, 22, 99], 3, None),
        ("block", [23, MASK, MASK, MASK], 6, adapter),
        ("causal", [23, 24, 25, 26], 6, None),
    ]


def test_speculation_with_no_draft_right_is_one_token_a_cycle():
    reference, model = decoder(TEXT)
    result = reference.generate([5, 6, 7], 4, speculation())
    assert result.token_ids == [20, 21, 22, 23]
    assert result.accepted == [0, 0, 0]
    assert [cached for _, _, cached, _ in model.forwards] == [0, 3, 3, 4, 4, 5, 5]


def test_the_lora_can_be_switched_off():
    reference, model = decoder(TEXT, lora=object())
    reference.generate([5, 6, 7], 4, speculation(draft_lora=False))
    assert all(lora is None for *_, lora in model.forwards)


def test_the_lora_stays_off_in_ar_and_diffusion():
    reference, model = decoder(TEXT, lora=object())
    reference.generate([5, 6, 7], 4, AR)
    reference.generate([5, 6, 7], 4, diffusion())
    assert all(lora is None for *_, lora in model.forwards)


def test_a_stop_token_inside_an_accepted_draft_trims_the_output_not_the_count():
    text = [0, 0, 0, 20, 21, STOP, 23, 24, 25]
    reference, _ = decoder(text, {4: (21, 0.5), 5: (STOP, 0.5), 6: (23, 0.5)})
    result = reference.generate([5, 6, 7], 20, speculation())
    assert (result.token_ids, result.finish_reason) == ([20, 21, STOP], "stop")
    assert result.accepted == [3]


def test_max_tokens_inside_a_block_trims_the_last_cycle():
    drafts = {position: (TEXT[position], 0.9) for position in range(4, 40)}
    reference, _ = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 6, speculation())
    assert (result.token_ids, result.accepted) == (TEXT[3:9], [3, 3])


@pytest.mark.parametrize("options", [AR, diffusion(), speculation()])
def test_max_model_len_bounds_prompt_and_output(options):
    drafts = {position: (TEXT[position], 0.9) for position in range(4, 40)}
    for limit in range(4, 16):
        reference, model = decoder(TEXT, drafts)
        result = reference.generate([5, 6, 7], 50, options, max_model_len=limit)
        assert result.token_ids == TEXT[3:limit]
        assert result.finish_reason == "length"
        assert all(
            cached + len(tokens) <= limit - 1 or cached == 0 for _, tokens, cached, _ in model.forwards
        )


def test_a_block_at_the_limit_is_shorter_and_a_block_of_one_is_a_causal_step():
    drafts = {position: (TEXT[position], 0.9) for position in range(4, 40)}
    reference, model = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 50, diffusion(threshold=0.8), max_model_len=10)
    assert model.forwards[1:] == [
        ("block", [20, MASK, MASK, MASK], 3, None),
        ("causal", [20, 21, 22, 23], 3, None),
        ("block", [24, MASK], 7, None),
        ("causal", [24, 25], 7, None),
    ]
    assert result.denoise_steps == [1, 1]
    reference, model = decoder(TEXT, drafts)
    result = reference.generate([5, 6, 7], 50, speculation(), max_model_len=9)
    assert model.forwards[-1] == ("causal", [24], 7, None)
    assert (result.accepted, result.verify_forwards, result.draft_forwards) == ([3], 2, 1)


@pytest.mark.parametrize("mode", list(DecodingMode))
def test_a_block_size_of_one_decodes_step_by_step(mode):
    reference, _ = decoder(TEXT)
    result = reference.generate([5, 6, 7], 3, DecodingOptions(decoding_mode=mode, block_size=1))
    assert result.token_ids == [20, 21, 22]
    assert (result.verify_forwards, result.forwards, result.accepted, result.denoise_steps) == (2, 2, [], [])


def test_viewers_see_every_forward():
    drafts = {4: (41, 0.95), 5: (42, 0.5), 6: (43, 0.92)}
    reference, _ = decoder(TEXT, drafts)
    steps = []
    reference.generate([5, 6, 7], 5, diffusion(), on_step=steps.append)
    assert [(step.forward, step.tokens, sum(step.masked)) for step in steps] == [
        ("prefill", [20], 0),
        ("denoise", [20, 41, MASK, 43], 1),
        ("denoise", [20, 41, 42, 43], 0),
        ("verify", [20, 41, 42, 43], 0),
    ]
    assert steps[-1].emitted == [20, 41, 42, 43, 24]
    steps.clear()
    reference.generate([5, 6, 7], 3, speculation(), on_step=steps.append)
    assert [step.forward for step in steps] == ["prefill", "draft", "verify", "draft", "verify"]


def test_every_token_that_stays_cached_was_written_by_a_causal_forward():
    drafts = {position: (TEXT[position], 0.9) for position in range(4, 40, 2)}
    for options in (AR, diffusion(), speculation()):
        reference, model = decoder(TEXT, drafts)
        result = reference.generate([5, 6, 7], 20, options)
        written = {}
        for kind, tokens, cached, _ in model.forwards:
            if kind == "causal":
                written |= {cached + row: token for row, token in enumerate(tokens)}
        sequence = [5, 6, 7, *result.token_ids]
        for position in range(model.forwards[-1][2]):
            assert written[position] == sequence[position]


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ([], {}, "prompt_ids: got 0 tokens, expected 1 to 999"),
        ([1] * 1000, {}, "prompt_ids: got 1000 tokens"),
        ([1, 2], {"max_model_len": 2}, "prompt_ids: got 2 tokens, expected 1 to 1"),
        ([128], {}, "prompt_ids: got the id 128, expected ids below 128"),
        ([-1], {}, "prompt_ids: got the id -1"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens: got 0, expected at least 1"),
        ([1], {"temperature": -1.0}, "temperature: got -1.0, expected a number >= 0"),
        ([1], {"temperature": float("nan")}, "temperature: got nan"),
    ],
)
def test_bad_arguments_are_named(prompt, arguments, message):
    reference, _ = decoder(TEXT)
    with pytest.raises(ValueError, match=message):
        reference.generate(prompt, **{"max_new_tokens": 5, "options": AR, **arguments})


def test_generation_leaves_no_gradients():
    reference, _ = decoder(TEXT)
    assert torch.is_grad_enabled()
    reference.generate([1, 2, 3], 3, AR)
    assert torch.is_grad_enabled()
