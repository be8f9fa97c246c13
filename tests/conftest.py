"""What every test shares: variables set before any import, the server of a set-up, and the count of engine starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engines import starts
from tests.engines.server import has_gpu

if TYPE_CHECKING:
    from tests.served.inside import Inside
    from tests.served.running import Running

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core take many times longer
if not has_gpu() and "SGLANG_USE_CPU_ENGINE" not in os.environ:  # SGLang compiles nothing on a CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers may do


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where random checkpoints are written."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The server of the set-up that `tests.served.setups.on` names, of the engine installed here.

    A session's parameter: pytest runs the tests of one server in a row and stops it before the next one starts.
    """
    from tests.served.setups import start

    with start(request.param, checkpoints, tmp_path_factory.mktemp("logs")) as server:
        yield server


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """Runs programs inside the engine installed here."""
    from tests.served.inside import Inside

    programs = Inside(tmp_path_factory.mktemp("inside") / "log")
    yield programs
    programs.stop()


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server it used still answers: no memory check of SGLang has ended it."""
    yield
    if "running" in request.fixturenames:
        used: Any = request.getfixturevalue("running")
        assert used.server.is_running(), used.server.log_tail()
        assert used.server.healthy(), used.server.log_tail()


def pytest_configure(config: pytest.Config) -> None:
    if starts.VARIABLE not in os.environ and not hasattr(config, "workerinput"):
        starts.begin()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if lines := starts.read():
        terminalreporter.section(starts.summary(lines))
        for line in (line for line in lines if line != starts.FORKED):
            terminalreporter.write_line(line)
