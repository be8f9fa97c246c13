import math

import pytest

from nemotron_diffusion_plugin.options import (
    OPTION_NAMES,
    CommitRule,
    DecodingMode,
    DecodingOptions,
    OptionError,
)

DEFAULTS = DecodingOptions()


def parse(**raw):
    return DecodingOptions.parse(raw, DEFAULTS, 32)


def test_defaults_are_auto_with_lora():
    options = DecodingOptions.for_model(16)
    assert options.decoding_mode is DecodingMode.AUTO
    assert (options.threshold, options.denoising_steps, options.block_size) == (0.9, None, 16)
    assert options.draft_lora is True
    assert options.commit_rule is CommitRule.THRESHOLD
    assert parse() == DEFAULTS
    assert DecodingOptions.parse(None, DEFAULTS, 32) is DEFAULTS


def test_every_option_is_read():
    options = parse(
        decoding_mode="diffusion",
        threshold=0.5,
        denoising_steps=4,
        block_size=8,
        draft_lora=False,
        commit_rule="fixed",
        tokens_per_step=2,
        return_counts=True,
    )
    assert options == DecodingOptions(DecodingMode.DIFFUSION, 0.5, 4, 8, False, CommitRule.FIXED, 2, True)
    assert OPTION_NAMES == (
        "decoding_mode",
        "threshold",
        "denoising_steps",
        "block_size",
        "draft_lora",
        "commit_rule",
        "tokens_per_step",
        "return_counts",
    )


def test_server_defaults_apply_under_the_request():
    server = DecodingOptions.for_model(32, {"decoding_mode": "diffusion", "threshold": 0.7, "block_size": 8})
    request = DecodingOptions.parse({"threshold": 1}, server, 32)
    assert request.decoding_mode is DecodingMode.DIFFUSION
    assert (request.threshold, request.block_size) == (1.0, 8)
    assert isinstance(request.threshold, float)


@pytest.mark.parametrize("value", [True, False])
def test_flag(value):
    assert parse(draft_lora=value).draft_lora is value


def test_block_size_one_and_any_step_bound_are_legal():
    assert parse(block_size=1).block_size == 1
    assert parse(denoising_steps=1000).denoising_steps == 1000
    assert parse(denoising_steps=None).denoising_steps is None


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("decoding_mode", "fast", "one of 'ar', 'diffusion', 'self_speculation'"),
        ("decoding_mode", 1, "one of 'ar', 'diffusion', 'self_speculation'"),
        ("commit_rule", "best", "one of 'threshold', 'schedule', 'threshold_bound'"),
        ("threshold", 0, r"a number in \(0, 1\]"),
        ("threshold", 1.5, r"a number in \(0, 1\]"),
        ("threshold", -0.1, r"a number in \(0, 1\]"),
        ("threshold", "0.9", r"a number in \(0, 1\]"),
        ("threshold", True, r"a number in \(0, 1\]"),
        ("threshold", None, r"a number in \(0, 1\]"),
        ("threshold", [0.9], r"a number in \(0, 1\]"),
        ("threshold", math.nan, r"a number in \(0, 1\]"),
        ("threshold", math.inf, r"a number in \(0, 1\]"),
        ("threshold", 10**40, r"a number in \(0, 1\]"),
        ("denoising_steps", 0, "an integer >= 1"),
        ("denoising_steps", 2.0, "an integer >= 1"),
        ("denoising_steps", True, "an integer >= 1"),
        ("denoising_steps", "8", "an integer >= 1"),
        ("block_size", 0, "an integer in 1 to 32"),
        ("block_size", 33, "an integer in 1 to 32"),
        ("block_size", True, "an integer in 1 to 32"),
        ("block_size", None, "an integer in 1 to 32"),
        ("draft_lora", 2, "true or false"),
        ("draft_lora", 0, "true or false"),
        ("return_counts", 1, "true or false"),
        ("draft_lora", "true", "true or false"),
        ("draft_lora", None, "true or false"),
        ("tokens_per_step", 0, "an integer >= 1"),
        ("tokens_per_step", 1.0, "an integer >= 1"),
    ],
)
def test_bad_values_name_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(OptionError, match=f"field '{field}': got .*, expected {allowed}") as caught:
        parse(**{field: value})
    assert repr(value)[:9] in str(caught.value)


def test_unknown_names_list_the_known_ones_and_a_close_match():
    with pytest.raises(
        OptionError, match=r"field 'treshold': unknown option \(did you mean 'threshold'\?\)"
    ) as caught:
        parse(treshold=0.5)
    for name in OPTION_NAMES:
        assert name in str(caught.value)
    with pytest.raises(OptionError, match="unknown option, expected one of decoding_mode"):
        parse(zzz=1)


def test_tokens_per_step_needs_the_fixed_rule():
    with pytest.raises(OptionError, match="field 'tokens_per_step': got 2 with commit_rule 'threshold'"):
        parse(tokens_per_step=2)
    server = DecodingOptions.for_model(32, {"commit_rule": "fixed"})
    assert DecodingOptions.parse({"tokens_per_step": 2}, server, 32).tokens_per_step == 2


@pytest.mark.parametrize("raw", [[], "ar", 7])
def test_options_must_be_an_object(raw):
    with pytest.raises(OptionError, match="expected an object"):
        DecodingOptions.parse(raw, DEFAULTS, 32)


def test_huge_values_do_not_flood_the_message():
    for raw in (
        {"block_size": 10**5000},
        {"threshold": "9" * 9000},
        {"x" * 9000: 1},
        {"denoising_steps": -(10**400)},
    ):
        with pytest.raises(OptionError) as caught:
            parse(**raw)
        assert len(str(caught.value)) < 300
    assert parse(denoising_steps=10**30).denoising_steps == 10**30
