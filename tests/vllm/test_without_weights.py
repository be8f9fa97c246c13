"""A server without weights runs the drafter LoRA and makes acceptance up: the cost of a step can be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common import without_weights

pytestmark = pytest.mark.engine


def test_the_script_for_real_sizes(tmp_path: Path) -> None:
    without_weights.measure("vllm", "--max-model-len 512 --kv-cache-memory-bytes 128M", tmp_path)
