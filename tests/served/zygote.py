"""Imports the engine once and forks for each program that needs one: `python -m tests.served.zygote`.

It reads and writes one JSON array a line. In: the name of a module in the engine's `inside/`, the arguments of its
`observe`, and variables. Out: what that returned and null, or null and what the process said.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.served.engine import ENGINE

HEAVY = {"vllm": ("vllm.entrypoints.llm",), "sglang": ("sglang.srt.managers.scheduler",)}
"""What takes long to import, and loads no plugin."""


def forked(program: str, arguments: list[Any], variables: dict[str, str]) -> tuple[Any, str | None]:
    with tempfile.NamedTemporaryFile() as said, tempfile.NamedTemporaryFile() as result:
        if (child := os.fork()) == 0:
            _observe(program, arguments, variables, said.fileno(), Path(result.name))
        _, status = os.waitpid(child, 0)
        if status:
            return None, Path(said.name).read_text(errors="replace")
        return json.loads(Path(result.name).read_text()), None


def _observe(program: str, arguments: list[Any], variables: dict[str, str], said: int, result: Path) -> None:
    """Run the program in this process and end it; what it says goes to the file `said`."""
    status = 1
    try:
        os.dup2(said, sys.stdout.fileno())
        os.dup2(said, sys.stderr.fileno())
        os.environ.update(variables)
        module = import_module(f"tests.{ENGINE}.inside.{program}")
        result.write_text(json.dumps(module.observe(*arguments)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    for name in HEAVY[ENGINE]:
        import_module(name)
    for line in sys.stdin:
        sys.__stdout__.write(json.dumps(forked(*json.loads(line))) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
