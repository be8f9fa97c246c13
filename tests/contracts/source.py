"""What our own files say about an engine: the names that they import and the fields that they read. Imports nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tests.engines.server import CHECKOUT

FOLDERS = {
    "vllm": (
        "nemotron_diffusion_plugin/vllm",
        "patches/nemotron_diffusion_patches/vllm",
        "tests/engines/vllm/interpreter",
    ),
    "sglang": (
        "nemotron_diffusion_plugin/sglang",
        "patches/nemotron_diffusion_patches/sglang",
        "tests/engines/sglang/standin",
    ),
}
HOLDERS = {
    "vllm": {
        "vllm_config": "vllm.config.VllmConfig",
        "speculative_config": "vllm.config.SpeculativeConfig",
        "model_config": "vllm.config.ModelConfig",
        "scheduler_config": "vllm.config.SchedulerConfig",
        "parallel_config": "vllm.config.ParallelConfig",
        "input_batch": "vllm.v1.worker.gpu.input_batch.InputBatch",
        "sampling_params": "vllm.sampling_params.SamplingParams",
        "scheduler_output": "vllm.v1.core.sched.output.SchedulerOutput",
        "req_states": "vllm.v1.worker.gpu.states.RequestState",
        "common_attn_metadata": "vllm.v1.attention.backend.CommonAttentionMetadata",
    },
    "sglang": {
        "server_args": "sglang.srt.server_args.ServerArgs",
        "forward_batch": "sglang.srt.model_executor.forward_batch_info.ForwardBatch",
        "req": "sglang.srt.managers.schedule_batch.Req",
        "sampling_params": "sglang.srt.sampling.sampling_params.SamplingParams",
        "sampling_info": "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo",
        "model_config": "sglang.srt.configs.model_config.ModelConfig",
    },
}
"""The names that our files give an engine's objects, and the classes of these."""


def trees(engine: str) -> Iterator[ast.Module]:
    """The files that know an engine."""
    for folder in FOLDERS[engine]:
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(engine: str) -> set[str]:
    """Every name that our files import from an engine, as "module:name", and every module as "module"."""
    found = set()
    for node in nodes(trees(engine)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module.split(".")[0] == engine:
                found |= {f"{node.module}:{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == engine}
    return found


def read(engine: str) -> set[str]:
    """Every chain of fields that our files read, as "class.field.field", of the classes in `HOLDERS`."""
    found = set()
    for tree in trees(engine):
        holders = {name: cls for name, cls in HOLDERS[engine].items() if name not in bound_by_import(tree)}
        for node in ast.walk(tree):
            chain = fields_of(node)
            if chain and chain[0] in holders:
                found.add(".".join([holders[chain[0]], *chain[1:]]))
    return found


def bound_by_import(tree: ast.Module) -> set[str]:
    """The names that stand for something imported in a file."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def fields_of(node: ast.AST) -> list[str]:
    """`["a", "b", "c"]` for `a.b.c` and for `self.a.b.c`; nothing for any other expression."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or not names:
        return []
    return names if node.id == "self" and len(names) > 1 else [node.id, *names]


def nodes(modules: Iterable[ast.Module]) -> Iterator[ast.AST]:
    for module in modules:
        yield from ast.walk(module)
