"""The launcher of an engine as a command: what it says when a server does not start, and what it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_diffusion_plugin import __version__
from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from tests.engines.server import CHECKOUT, free_port
from tests.served.engine import ENGINE

pytestmark = pytest.mark.engine

LAUNCH = f"tests.engines.{ENGINE}.launch"


@pytest.mark.long
def test_a_refused_option_is_the_last_line(tmp_path: Path) -> None:
    """The engine's own words, after all that its process prints while it ends."""
    options = ["--no-such-option", "--port", str(free_port())]
    ended = subprocess.run(
        [sys.executable, "-m", LAUNCH, "serve", str(BUNDLED_CHECKPOINT), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == 1
    last = ended.stderr.rstrip().splitlines()[-1]
    assert last.startswith(
        "error: the server did not start: unrecognized arguments: --no-such-option; the whole log"
    )
    assert "unrecognized arguments" in Path(last.rpartition(" ")[2]).read_text()


def test_the_programs_of_the_environment_are_found() -> None:
    command = [sys.executable, "-m", LAUNCH, "run", "nemotron-diffusion", "--version"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    assert answer.stdout == f"nemotron-diffusion {__version__}\n"
