"""What `nemotron-diffusion bench` counts is what the reference decoder needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common import benchmarking
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, pytest.mark.parametrize("running", ["trained"], indirect=True)]


def test_counts_equal_the_reference_decoder(running: Running, tmp_path: Path) -> None:
    content = benchmarking.measured("sglang", running.server.url, tmp_path)
    benchmarking.check(content)
    drafting = content["counts"]["self_speculation"]["units"]
    assert drafting["by_position"][0] <= drafting["cycles"]
    assert sum(drafting["by_position"]) == drafting["accepted"]
