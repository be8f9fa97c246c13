"""Clients that misbehave, and load that comes and goes (`tests/common/suite/faults.py`)."""

import pytest

from tests.common.suite.faults import (  # noqa: F401
    test_killed_clients,
    test_malformed_body,
    test_many_mixed_requests_with_random_cancels,
    test_oversized_body,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
