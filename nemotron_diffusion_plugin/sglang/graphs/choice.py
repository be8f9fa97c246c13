"""Which CUDA graph a forward may replay, and what such graphs are captured for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import torch


class GraphKind(Enum):
    """The forwards that are captured, each in graphs of its own; the value names the graphs in SGLang's keys."""

    DECODE = "decode"
    VERIFY = "verify"
    DRAFT = "draft"
    DRAFT_LORA = "draft_lora"


GRAPH_BACKENDS = ("fa3", "fa4", "flashinfer", "triton")
"""Attention backends whose graphs honour the bidirectional view of a draft, by their source."""


class Pass(Protocol):
    """What decides about a forward over blocks; `sglang.spec_inputs.BlockPass` has it."""

    bidirectional: bool
    draft_token_num: int
    lora_rows: torch.Tensor | None
    ragged_verify_layout: Any


def choose_graph(
    is_target_verify: bool, is_decode: bool, pass_: Pass | None, block_size: int
) -> GraphKind | None:
    """Return the kind of graph that computes exactly this forward, None where it runs without one.

    Captured are decode steps, which have no pass, and blocks that are all `block_size` wide: causal without LoRA, and
    bidirectional without and with it. A draft whose rows are marked for the LoRA never gets a graph without it, nor the
    other way round.
    """
    if is_decode:
        return GraphKind.DECODE if pass_ is None else None
    if not is_target_verify or pass_ is None or not hasattr(pass_, "bidirectional"):
        return None
    if pass_.ragged_verify_layout is not None or pass_.draft_token_num != block_size:
        return None
    if pass_.bidirectional:
        return GraphKind.DRAFT if pass_.lora_rows is None else GraphKind.DRAFT_LORA
    return GraphKind.VERIFY if pass_.lora_rows is None else None


def block_kinds(has_lora: bool) -> tuple[GraphKind, ...]:
    """The kinds of forwards over blocks that a model needs; without an adapter none are captured with it."""
    kinds = (GraphKind.VERIFY, GraphKind.DRAFT)
    return (*kinds, GraphKind.DRAFT_LORA) if has_lora else kinds


def block_batch_sizes(sizes: Sequence[int], most: int) -> list[int]:
    """The batch sizes to capture forwards over blocks for: those of `sizes` up to `most`, the blocks of one forward.

    The last one takes every batch that one forward can take, unless `sizes` end before.
    """
    most = max(1, most)
    kept = {size for size in sizes if size <= most}
    return sorted(kept | {most}) if any(size > most for size in sizes) else sorted(kept)


def check_backends(prefill: str, decode: str) -> None:
    """Raise ValueError for attention backends whose graphs would not be known to be right."""
    if prefill == decode and prefill in GRAPH_BACKENDS:
        return
    given = f"'{decode}'" if prefill == decode else f"'{prefill}' for prefill and '{decode}' for decode"
    raise ValueError(
        f"attention_backend: got {given}, expected one of {', '.join(GRAPH_BACKENDS)} for both with CUDA graphs; "
        "choose one of them or add --disable-cuda-graph"
    )


def set_rows(static: torch.Tensor, rows: torch.Tensor) -> None:
    """Write `[T, 1]` into the first rows of the buffer `[N, 1]` that graphs read, and 0 into all others."""
    if len(rows) > len(static):
        raise ValueError(f"LoRA rows: got {len(rows)}, expected at most {len(static)}, the captured rows")
    static[: len(rows)].copy_(rows)
    static[len(rows) :].zero_()
