"""One server at a time, shared by every test that asks for its set-up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common.cases import Reference
from tests.common.checkpoints import checkpoint_folder
from tests.engines.sglang.launch import Server
from tests.sglang.client import Client
from tests.sglang.inside import forward_log
from tests.sglang.servers import SETUPS, Running


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
    logs = tmp_path_factory.mktemp("logs")
    variables = setup.variables
    if setup.logs_forwards:
        variables |= forward_log.variables(logs, os.environ.get("PYTHONPATH", ""))
    options = setup.command_line
    with Server(folder, *options, log=logs / f"{request.param}.log", variables=variables) as server:
        client = Client(server.url, str(folder))
        defaults = setup.defaults or setup.environment_defaults
        reference = Reference(folder, setup.context_length, defaults)
        yield Running(request.param, setup, server, client, reference, logs / forward_log.FILE)


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server it used still answers: no memory check of SGLang has ended it."""
    yield
    if "running" in request.fixturenames:
        used: Running = request.getfixturevalue("running")
        assert used.server.is_running(), used.server.log_tail()
        assert used.server.healthy(), used.server.log_tail()
