"""CUDA graphs without CUDA, in a server on a CPU: what a graph would record is kept as a call on the same buffers.

A replayed call reads what a graph would: the input buffers, the pass that was captured, and the attention metadata
that is prepared before the replay. Streams, memory and kernels are not simulated. Each replay is noted in a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

LOG = "SIMULATED_GRAPHS_LOG"
"""Names the file; without it nothing is simulated."""
SIZES = (1, 2, 4, 8, 16)


class CallBackend:
    """In place of SGLang's `FullCudaGraphBackend`."""

    def __init__(self, runner: Any) -> None:
        self.calls: dict[Any, Callable[[], Any]] = {}

    @contextmanager
    def capture_session(self, stream: Any) -> Iterator[None]:
        yield

    @contextmanager
    def replay_session(self) -> Iterator[None]:
        yield

    def capture_one(self, key: Any, forward: Callable[[], Any], **_: Any) -> None:
        if key in self.calls:
            raise RuntimeError(f"captured twice: {key}")
        forward()
        self.calls[key] = forward

    def can_run(self, forward_batch: Any, key: Any) -> bool:
        return key in self.calls

    def replay(self, key: Any, forward_batch: Any, **_: Any) -> Any:
        with open(os.environ[LOG], "a", encoding="utf-8") as log:
            print(key.variant_label, described(forward_batch), forward_batch.batch_size, key.size, file=log)
        return self.calls[key]()


def described(forward_batch: Any) -> str:
    """The forward that was asked for, in the words of the graphs' keys."""
    info = forward_batch.spec_info
    if info is None:
        return "None"
    return ("draft_lora" if info.lora_rows is not None else "draft") if info.bidirectional else "verify"


def register() -> None:
    """SGLang plugin entry point."""
    if LOG not in os.environ:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    target = "sglang.srt.model_executor.model_runner.ModelRunner.init_cuda_graphs"
    HookRegistry.register(target, _capture, HookType.AFTER)


def _capture(result: Any, model_runner: Any, *_: Any, **__: Any) -> Any:
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.model_executor.graph_shared_output import GraphSharedOutput
    from sglang.srt.model_executor.runner import decode_cuda_graph_runner as stock
    from sglang.srt.runtime_context import get_exec
    from sglang_on_cpu.backend import ReferenceBackend

    from nemotron_diffusion_plugin.sglang.graphs import choice as graph_choice

    graph_choice.GRAPH_BACKENDS = (*graph_choice.GRAPH_BACKENDS, "cpu_ref")  # type: ignore[assignment]
    ForwardMode.is_cpu_graph = ForwardMode.is_cuda_graph
    stock.graph_capture = _no_stream
    stock.get_or_create_global_graph_capture_stream = lambda: None
    stock.resolve_decode_backend = CallBackend
    stock.DecodeCudaGraphRunner._record_in_graph_metadata_prep_done = lambda self: None
    stock.DecodeCudaGraphRunner._publish_read_done = lambda self, in_graph: None
    ReferenceBackend.init_cuda_graph_state = lambda self, max_bs, max_num_tokens: None
    ReferenceBackend.get_cuda_graph_seq_len_fill_value = lambda self: 1
    ReferenceBackend.init_forward_metadata_out_graph = _plan
    get_exec().graph.cuda_graph_config.decode.bs = list(SIZES)
    rows = max(SIZES) * model_runner.decode_num_tokens_per_req()
    model_runner.graph_shared_output = GraphSharedOutput(device="cpu", max_rows=rows)
    model_runner.decode_cuda_graph_runner = model_runner._decode_cuda_graph_runner_cls()(model_runner)
    return result


def _plan(backend: Any, forward_batch: Any, in_capture: bool = False) -> None:
    backend.init_forward_metadata(forward_batch)


@contextmanager
def _no_stream(stream: Any) -> Iterator[Any]:
    yield SimpleNamespace(stream=None)
