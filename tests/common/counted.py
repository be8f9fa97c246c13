"""What a response with `return_counts` must say."""

from __future__ import annotations

from typing import Any

from tests.common.cases import MODES, Case, Reference

CASES = [
    Case([300 + place, 400, 500], 70, {"decoding_mode": mode}, ignore_eos=True)
    for place, mode in enumerate(MODES)
]


def asking(case: Case) -> Case:
    """The case, with the counts in its response."""
    return Case(case.prompt, case.max_tokens, {**case.options, "return_counts": True}, case.ignore_eos)


def wanted(reference: Reference, case: Case) -> dict[str, Any]:
    """The counts of a case as the reference decoder has them."""
    answer = reference.generate(case)
    accepted = answer.accepted
    return {
        "decoding_mode": reference.mode(case),
        "tokens": len(answer.token_ids),
        "forwards": {
            "prefill": 1,
            "draft": answer.draft_forwards,
            "denoise": answer.denoise_forwards,
            "verify": answer.verify_forwards,
        },
        "tokens_per_forward": answer.tokens_per_forward,
        "acceptance_length": answer.acceptance_length if accepted else None,
        "accepted_drafts": accepted,
        "denoise_steps": answer.denoise_steps,
    }
