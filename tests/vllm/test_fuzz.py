"""Random bodies are never a 500 (`tests/common/suite/fuzz.py`)."""

import pytest

from tests.common.suite.fuzz import (  # noqa: F401
    test_random_bodies,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
