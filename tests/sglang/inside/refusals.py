"""A scheduler of a checkpoint that is or is not refused."""

from __future__ import annotations

from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import PortArgs, prepare_server_args

from tests.engines.sglang.launch import CPU_OPTIONS


def observe(folder: str, words: list[str]) -> None:
    """Do what a server does until its scheduler is ready; its context has 256 tokens, or what `words` say."""
    load_plugins()
    context = [] if "--context-length" in words else ["--context-length", "256"]
    common = ["--model-path", folder, *CPU_OPTIONS, *context]
    arguments = prepare_server_args([*common, *words])
    arguments.resolve_once()
    arguments.check_server_args()
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, dp_rank=None, gpu_id=0))
    Scheduler(arguments, PortArgs.init_new(arguments))
