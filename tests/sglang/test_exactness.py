"""Sampled self-speculation answers as AR does (`tests/common/suite/sampling.py`)."""

import pytest

from tests.common.suite.sampling import (  # noqa: F401
    test_a_seed_draws_in_self_speculation_what_it_draws_in_ar,
    test_self_speculation_draws_as_ar,
    test_ten_thousand_steps_of_sampling,
    test_the_comparison_tells_distributions_apart,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
