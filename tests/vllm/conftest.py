"""A checkpoint for programs inside the engine, and what the reference decoder makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.cases import Reference
from tests.common.checkpoints import checkpoint_folder


@pytest.fixture(scope="session")
def folder(checkpoints: Path) -> Path:
    return checkpoint_folder("plain", checkpoints)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, 512)
