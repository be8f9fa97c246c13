"""A stand-in of a server in this process, and the command that starts one as a process."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.bench import fake_server
from tests.tools.bench.fake_server import Fake

LAUNCHER = shlex.join([sys.executable, str(Path(fake_server.__file__))])


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A stand-in that runs in this process, so that a test sees what it was asked."""
    with Fake(0, fake_server.options([])) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(fake: Fake) -> str:
    return f"http://127.0.0.1:{fake.server_address[1]}"


@pytest.fixture
def launcher() -> str:
    return LAUNCHER
