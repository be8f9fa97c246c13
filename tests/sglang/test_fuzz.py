"""Random bodies are never a 500 (`tests/common/suite/fuzz.py`, `openapi.py`)."""

import pytest

from tests.common.suite import openapi
from tests.common.suite.fuzz import test_random_bodies  # noqa: F401

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/generate")
test_bodies_of_the_published_schema = pytest.mark.parametrize("path", PATHS)(
    openapi.test_bodies_of_the_published_schema
)
