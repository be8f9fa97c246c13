"""CUDA graphs: separate captures for verify forwards, drafts without and with the LoRA, and decode steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner
from sglang.srt.runtime_context import get_exec, get_spec
from typing_extensions import override

from nemotron_diffusion_plugin.serving.draft_lora import has_adapter
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.picking import LOGITS_AT_ONCE
from nemotron_diffusion_plugin.sglang.graphs.choice import (
    GraphKind,
    block_batch_sizes,
    block_kinds,
    check_backends,
    choose_graph,
    set_rows,
)
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass

GRAPH_METADATA = ("prefill_cuda_graph_metadata", "target_verify_metadata")
"""Where attention backends keep what a graph of a batch size reads. The key is the batch size alone, so that a second
graph of a size would replace what the first one still reads (FlashInfer's plan)."""

INDEX_DTYPES = {"flashinfer": torch.int32, "triton": torch.int64}
"""Backends that size their KV indices for one sequence per captured token unless they are given a buffer."""


@checked_overrides
class BlockGraphRunner(DecodeCudaGraphRunner):
    """SGLang's runner of the target: graphs over whole blocks, and a second runner for decode steps.

    A batch size is captured once per kind of forward, under a key that names the kind. All of them share SGLang's input
    buffers, its buffer for logits and its memory pool: two forwards never overlap, and logits are used up before the
    next forward.
    """

    kinds: tuple[GraphKind, ...]
    lora_rows: torch.Tensor
    """What the rows of DRAFT_LORA graphs read, `[max_num_token, 1]`, the model's dtype."""

    def __init__(self, model_runner: Any) -> None:
        backend = model_runner.decode_attention_backend_str
        check_backends(model_runner.prefill_attention_backend_str, backend)
        self.kinds = block_kinds(has_adapter(model_runner.model))
        self._capturing: GraphKind | None = None
        self._replaying: GraphKind | None = None
        self._metadata: dict[GraphKind, dict[str, Any]] = {}
        with (
            _batch_sizes_up_to(_most_blocks(model_runner)),
            _indices_by_request(model_runner, INDEX_DTYPES.get(backend)),
        ):
            super().__init__(model_runner)
        logger.info(
            "CUDA graphs of %s for up to %d blocks", ", ".join(one.value for one in self.kinds), self.max_bs
        )
        self.decode = DecodeStepGraphRunner(model_runner)

    def kind_of(self, forward_batch: ForwardBatch) -> GraphKind | None:
        """The kind of graph that computes exactly this forward, None where there is none."""
        mode = forward_batch.forward_mode
        kind = choose_graph(
            mode.is_target_verify(), mode.is_decode(), forward_batch.spec_info, self.captured_req_width
        )
        if kind is GraphKind.DECODE:
            return kind
        rows = forward_batch.batch_size * self.captured_req_width
        return kind if kind in self.kinds and len(forward_batch.input_ids) == rows else None

    @override
    def can_run_graph(self, forward_batch: ForwardBatch) -> bool:
        """Whether a forward is replayed.

        Where it is not, an earlier replay of the same step must not tell SGLang's scheduler any more that the step has
        read what the two share (`Scheduler._apply_war_barrier`): the forward without a graph still reads it.
        """
        kind = self.kind_of(forward_batch)
        if kind is GraphKind.DECODE:
            runs = self.decode.can_run_graph(forward_batch)
        else:
            runs = kind is not None and super().can_run_graph(forward_batch)
        if not runs:
            self.model_runner.shared_read_done_event = None
        return bool(runs)

    @override
    def execute(self, forward_batch: ForwardBatch, pp_proxy_tensors: Any = None) -> Any:
        """Replay the graph of a forward that can run."""
        if self.kind_of(forward_batch) is GraphKind.DECODE:
            return self.decode.execute(forward_batch, pp_proxy_tensors)
        return super().execute(forward_batch, pp_proxy_tensors)

    @override
    def load_batch(self, forward_batch: ForwardBatch, pp_proxy_tensors: Any = None) -> None:
        """Put a forward over blocks where its graph reads it."""
        self._replaying = kind = self._kind_to_replay(forward_batch)
        self._use_metadata(kind)
        super().load_batch(forward_batch, pp_proxy_tensors)
        if kind is GraphKind.DRAFT_LORA:
            set_rows(self.lora_rows, forward_batch.spec_info.lora_rows)

    @override
    def capture(self) -> None:
        """Capture every batch size for every kind; the input buffers and the backend's buffers exist by now."""
        self.lora_rows = torch.zeros(
            self.max_num_token, 1, dtype=self.model_runner.dtype, device=self.model_runner.device
        )
        self._metadata = {kind: _copies(self.attn_backend) for kind in self.kinds}
        super().capture()

    @override
    def capture_one_shape(
        self,
        size: int,
        forward: Callable[..., Any],
        stream_idx: int | None = None,
        variant_label: str | None = None,
        attention_variant: str | None = None,
    ) -> None:
        """Capture one batch size, once per kind."""
        for kind in self.kinds:
            self._capturing = kind
            self._use_metadata(kind)
            self._set_profile_trace_tag(size, stream_idx, kind.value, attention_variant)
            super().capture_one_shape(size, forward, stream_idx, kind.value, attention_variant)
        self._capturing = None

    @override
    def get_spec_info(self, num_tokens: int) -> BlockPass:
        """The pass that is being captured: what the model reads of it stays in the graph."""
        kind = self._capturing
        if kind is None:
            raise RuntimeError("a forward over blocks is described for capture, but none is being captured")
        return BlockPass(
            positions=self.buffers.positions[:num_tokens],
            draft_token_num=self.captured_req_width,
            bidirectional=kind is not GraphKind.VERIFY,
            lora_rows=self.lora_rows[:num_tokens] if kind is GraphKind.DRAFT_LORA else None,
        )

    @override
    def _resolve_lora_variant(self, forward_batch: ForwardBatch) -> str:
        return self._kind_to_replay(forward_batch).value

    @override
    def _glue_key(self, bs: int, actual_mode: str, attention_variant: str | None) -> tuple[Any, ...]:
        return (*super()._glue_key(bs, actual_mode, attention_variant), self._replaying)

    def _kind_to_replay(self, forward_batch: ForwardBatch) -> GraphKind:
        kind = self.kind_of(forward_batch)
        if kind is None or kind is GraphKind.DECODE:
            raise RuntimeError(f"no graph over blocks computes this forward ({forward_batch.spec_info})")
        return kind

    def _use_metadata(self, kind: GraphKind) -> None:
        for name, value in self._metadata[kind].items():
            setattr(self.attn_backend, name, value)


@checked_overrides
class DecodeStepGraphRunner(DecodeCudaGraphRunner):
    """Graphs of plain decode steps, which SGLang does not capture for a model that speculates.

    They have an attention backend of their own: a backend sizes its buffers for one width of requests.
    """

    def __init__(self, model_runner: Any) -> None:
        super().__init__(
            model_runner, attn_backend=_decode_backend(model_runner), speculative_num_draft_tokens=1
        )

    @override
    def capture(self) -> None:
        """Capture decode steps; the parent takes every forward of a speculating model for a verify forward."""
        self.capture_forward_mode = ForwardMode.DECODE
        super().capture()

    @override
    def get_spec_info(self, num_tokens: int) -> None:
        """A decode step has no pass."""


def logits_rows(model_runner: Any, rows: int) -> int:
    """Rows of the largest logits that a graph computes; `rows` would do for a block of each request of a step."""
    width = model_runner.decode_num_tokens_per_req()
    requests = rows // width
    return max(requests, width * min(requests, max(1, _most_blocks(model_runner))))


def _most_blocks(model_runner: Any) -> int:
    """Blocks of one forward, by how many logits exist at a time."""
    width = model_runner.model_config.vocab_size * model_runner.decode_num_tokens_per_req()
    return LOGITS_AT_ONCE // int(width)


def _copies(backend: Any) -> dict[str, Any]:
    return {name: dict(getattr(backend, name)) for name in GRAPH_METADATA if hasattr(backend, name)}


def _decode_backend(model_runner: Any) -> Any:
    """An attention backend as for a model that does not speculate."""
    before = model_runner.init_new_workspace
    try:
        with get_spec().override(speculative_num_draft_tokens=None):
            return model_runner._get_attention_backend(init_new_workspace=True)
    finally:
        model_runner.init_new_workspace = before


@contextmanager
def _batch_sizes_up_to(most: int) -> Iterator[None]:
    """Let SGLang choose among the batch sizes to capture only those that a forward over blocks can have."""
    phase = get_exec().graph.cuda_graph_config.decode
    sizes = phase.bs
    phase.bs = block_batch_sizes(sizes, most)
    try:
        yield
    finally:
        phase.bs = sizes


@contextmanager
def _indices_by_request(model_runner: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Give the backend KV indices for one sequence per block, not one per token of a block."""
    if dtype is None:
        yield
        return
    backend = model_runner.attn_backend
    original = backend.init_cuda_graph_state

    def init_cuda_graph_state(max_bs: int, max_num_tokens: int) -> None:
        size = max_bs * backend.max_context_len + max_num_tokens
        original(
            max_bs,
            max_num_tokens,
            kv_indices_buf=torch.zeros(size, dtype=dtype, device=model_runner.device),
        )

    backend.init_cuda_graph_state = init_cuda_graph_state
    try:
        yield
    finally:
        del backend.init_cuda_graph_state
