"""Running one of the programs of this folder."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.engines.sglang.launch import CHECKOUT, environment


def run(program: str, *arguments: str) -> Any:
    """Run `tests.sglang.inside.{program}` in a process of its own and return what it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.sglang.inside.{program}", *arguments],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
