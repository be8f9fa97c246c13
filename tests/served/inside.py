"""Programs that run an engine in one process and tell what no HTTP answer shows; each engine's are in its `inside/`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.engines import starts
from tests.engines.server import CHECKOUT
from tests.served.engine import ENGINE

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}


class Inside:
    """Runs programs in processes forked from one, which imports the engine on first use."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, program: str, *arguments: Any, **variables: str) -> tuple[Any, str | None]:
        """What `tests.{engine}.inside.{program}.observe` returned and None, or None and what it said when it failed."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([program, arguments, variables]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, self.log.read_text(errors="replace")[-4000:]
        starts.add_forked()
        result, said = json.loads(answer)
        return result, said

    def run(self, program: str, *arguments: Any, **variables: str) -> Any:
        """What the program returned; fails the test where it failed."""
        result, said = self.ask(program, *arguments, **variables)
        assert said is None, said[-6000:]
        return result

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _started(self) -> subprocess.Popen[str]:
        starts.add("process for programs inside the engine")
        launch = import_module(f"tests.engines.{ENGINE}.launch")
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.served.zygote"],
                cwd=CHECKOUT,
                env=launch.environment({**os.environ, **QUIET}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
