"""Measuring at start on vLLM: what its runner refuses, and what ends the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.worker.timing import RunnerTimer
from tests.auto.test_requests import CONFIG


class Runner:
    """vLLM's runner, whose warm-up forward raises `error` while KV connectors are off."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.connector_is_off = False
        self.kv_connector = SimpleNamespace(set_disabled=self._switch)

    def _switch(self, off: bool) -> None:
        self.connector_is_off = off

    def _dummy_run(self, *arguments: Any, **keywords: Any) -> Any:
        self.kv_connector.set_disabled(True)
        raise self.error


def timer_of(error: Exception) -> tuple[RunnerTimer, Runner]:
    runner = Runner(error)
    table = SimpleNamespace(mode=np.zeros(4), settings=ServerSettings.read(32, {}), mask_token_id=1)
    forward: Any = SimpleNamespace(max_tokens=512)
    return RunnerTimer(runner, forward, table, operators=None), runner  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [AssertionError("too many tokens"), ValueError("no attention")])
def test_arithmetic_stays_where_the_runner_refuses(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    timer, runner = timer_of(error)
    assert timer.costs(CONFIG) is None
    assert not runner.connector_is_off, "requests would go on without it"
    assert "auto counts on arithmetic" in caplog.text


def test_what_would_meet_requests_as_well_ends_the_start() -> None:
    timer, _ = timer_of(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        timer.costs(CONFIG)


def test_the_most_rows_fit_the_batch_and_the_requests() -> None:
    timer, _ = timer_of(ValueError())
    assert timer.most_rows == 4 * 32
    timer.forward.max_tokens = 100
    assert timer.most_rows == 100
