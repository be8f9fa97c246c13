"""Running one of the programs of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engines.vllm.launch import CHECKOUT, environment


def run(program: str, *arguments: str | Path, **variables: str) -> Any:
    """Run `tests.vllm.inside.{program}` in a process of its own and return what it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.vllm.inside.{program}", *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment({**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", **variables}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
