"""The counts of one request."""

from types import SimpleNamespace

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.request_counts import (
    RequestCounts,
    counts_of,
    span_attributes,
    start_counting,
)


def test_a_request_that_speculates() -> None:
    counts = RequestCounts(DecodingMode.SELF_SPECULATION, tokens=12)
    counts.forward("prefill")
    for accepted in (5, 0, 3):
        counts.forward("draft")
        counts.forward("verify")
        counts.accepted_drafts.append(accepted)
    assert counts.summary() == {
        "decoding_mode": "self_speculation",
        "tokens": 12,
        "forwards": {"prefill": 1, "draft": 3, "denoise": 0, "verify": 3},
        "tokens_per_forward": 2.0,
        "acceptance_length": 1 + 8 / 3,
        "accepted_drafts": [5, 0, 3],
        "denoise_steps": [],
    }


def test_a_diffusion_request_has_no_acceptance_length() -> None:
    counts = RequestCounts(DecodingMode.DIFFUSION, tokens=8)
    counts.block_denoised(3)
    counts.block_denoised(2)
    counts.forward("verify", 3)
    summary = counts.summary()
    assert (summary["forwards"]["denoise"], summary["denoise_steps"]) == (5, [3, 2])
    assert summary["tokens_per_forward"] == 1.0
    assert summary["acceptance_length"] is None


def test_a_request_that_ended_with_its_first_token() -> None:
    counts = RequestCounts(DecodingMode.AR, tokens=1)
    counts.forward("prefill")
    assert counts.summary()["tokens_per_forward"] is None


def test_only_requests_that_ask_are_counted() -> None:
    request = SimpleNamespace()
    assert counts_of(request) is None
    start_counting(request, DecodingMode.AR)
    counts = counts_of(request)
    assert counts is not None
    counts.tokens += 1
    assert counts_of(request) is counts


def test_span_attributes() -> None:
    counts = RequestCounts(DecodingMode.SELF_SPECULATION, tokens=4, accepted_drafts=[3])
    for kind in ("prefill", "draft", "verify"):
        counts.forward(kind)
    assert span_attributes(counts.summary()) == {
        "nemotron_diffusion.decoding_mode": "self_speculation",
        "nemotron_diffusion.tokens_per_forward": 2.0,
        "nemotron_diffusion.acceptance_length": 4.0,
        "nemotron_diffusion.forwards.prefill": 1,
        "nemotron_diffusion.forwards.draft": 1,
        "nemotron_diffusion.forwards.denoise": 0,
        "nemotron_diffusion.forwards.verify": 1,
    }
    nothing = span_attributes(RequestCounts(DecodingMode.AR).summary())
    assert "nemotron_diffusion.acceptance_length" not in nothing, "a span takes no null"
