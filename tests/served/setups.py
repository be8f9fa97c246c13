"""The servers of the engine that is installed here, by name; each engine's are in its `servers.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.common.cases import Reference
from tests.common.checkpoints import checkpoint_folder
from tests.served.engine import ENGINE, SGLANG, VLLM
from tests.served.running import Running

__all__ = ["ENGINE", "SETUPS", "SGLANG", "VLLM", "on", "start"]

_engine: Any = import_module(f"tests.{ENGINE}.servers")
SETUPS = _engine.SETUPS


def on(*names: str, long: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Run a test on those of these servers that the engine has, on those of `long` in the long lane only."""
    chosen = [name for name in names if name in SETUPS]
    chosen += [pytest.param(name, marks=pytest.mark.long) for name in long if name in SETUPS]  # type: ignore[misc]
    return pytest.mark.parametrize("running", chosen, indirect=True, scope="session")


@contextmanager
def start(name: str, checkpoints: Path, folder: Path) -> Iterator[Running[Any]]:
    """The server of a set-up, which ends with the block; it writes to `folder`."""
    setup = SETUPS[name]
    checkpoint = checkpoint_folder(setup.checkpoint, checkpoints)
    variables = setup.variables_in(folder)
    log = folder / f"{name}.log"
    with _engine.Server(checkpoint, *setup.command_line, log=log, variables=variables) as server:
        client = _engine.Client(server.url, str(checkpoint))
        reference = Reference(checkpoint, setup.context, setup.reference_defaults)
        yield _engine.Running(name, setup, server, client, reference, folder)
