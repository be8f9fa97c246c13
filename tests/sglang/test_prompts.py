"""Echoed prompts and their log-probabilities (`tests/common/suite/prompts.py`)."""

import pytest

from tests.common.suite.prompts import test_echo_with_logprobs  # noqa: F401

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
