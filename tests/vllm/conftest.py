"""One server at a time, shared by every test that asks for its set-up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common.cases import Reference
from tests.common.checkpoints import checkpoint_folder
from tests.engines.vllm.launch import Server
from tests.vllm.client import Client
from tests.vllm.servers import SETUPS, Running


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where random checkpoints are written."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The server whose name the test (or its module) gives by indirect parametrization.

    A session's parameter: pytest runs the tests of one server in a row and stops it before the next one starts.
    """
    setup = SETUPS[request.param]
    folder = checkpoint_folder(setup.checkpoint, checkpoints)
    log = tmp_path_factory.mktemp("logs") / f"{request.param}.log"
    with Server(folder, *setup.command_line, log=log, variables=setup.variables) as server:
        client = Client(server.url, str(folder))
        reference = Reference(folder, setup.max_model_len, setup.defaults)
        yield Running(request.param, setup, server, client, reference)


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server it used still answers."""
    yield
    if "running" in request.fixturenames:
        used: Running = request.getfixturevalue("running")
        assert used.server.healthy(), used.server.log_tail()
