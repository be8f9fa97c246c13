"""A plugin of SGLang that writes down every forward of the model and every result that the scheduler takes in.

One JSON object a line: `forwards`, how many the model has run so far, and `tokens`, how many tokens each request of
the batch has by its id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "forwards.jsonl"
VARIABLE = "FORWARD_LOG"

_forwards = 0


def variables(folder: Path, python_path: str) -> dict[str, str]:
    """Return the variables of a server that loads this plugin and writes to `FILE` in `folder`."""
    info = folder / "forward_log-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: forward-log\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[sglang.srt.plugins]\nforward_log = {__name__}:register\n")
    return {
        "PYTHONPATH": os.pathsep.join(part for part in (str(folder), python_path) if part),
        VARIABLE: str(folder / FILE),
    }


def register() -> None:
    """The entry point."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    runner = "sglang.srt.model_executor.model_runner.ModelRunner.forward"
    scheduler = "sglang.srt.managers.scheduler.Scheduler.process_batch_result"
    HookRegistry.register(runner, _forward, HookType.AROUND)
    HookRegistry.register(scheduler, _process_batch_result, HookType.AROUND)


def _forward(original: Callable[..., Any], self: Any, *arguments: Any, **keywords: Any) -> Any:
    global _forwards
    _forwards += 1
    return original(self, *arguments, **keywords)


def _process_batch_result(
    original: Callable[..., Any], self: Any, batch: Any, *arguments: Any, **keywords: Any
) -> Any:
    result = original(self, batch, *arguments, **keywords)
    tokens = {
        req.rid: len(req.output_ids) if req.finished_len is None else req.finished_len for req in batch.reqs
    }
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(json.dumps({"forwards": _forwards, "tokens": tokens}) + "\n")
    return result
