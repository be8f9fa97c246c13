"""Constrained answers, tool calls and reasoning (`tests/common/suite/structured.py`)."""

import pytest

from tests.common.suite.structured import (  # noqa: F401
    test_completion_fits,
    test_diffusion_refuses_constraints,
    test_drafts_keep_to_a_grammar_that_forces_the_model_off_its_way,
    test_forced_tool_call,
    test_json_behind_a_thought,
    test_reasoning_is_off_unless_asked_for,
    test_sampled_json_is_always_valid,
    test_tool_call_of_the_model,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
