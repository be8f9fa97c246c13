"""Which forward gets which graph: none but one that computes exactly that forward."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

from nemotron_diffusion_plugin.sglang.graphs.choice import (
    GRAPH_BACKENDS,
    GraphKind,
    block_batch_sizes,
    block_kinds,
    check_backends,
    choose_graph,
    set_rows,
)

BLOCK = 32


@dataclass
class Pass:
    bidirectional: bool
    draft_token_num: int = BLOCK
    lora_rows: torch.Tensor | None = None
    ragged_verify_layout: Any = None


class OtherPass:
    """A pass of another algorithm."""

    draft_token_num = BLOCK
    ragged_verify_layout = None


ROWS = torch.ones(2 * BLOCK, 1)
PASSES = [
    Pass(bidirectional, width, rows, layout)
    for bidirectional, width, rows, layout in product(
        (False, True), (1, 8, BLOCK, 2 * BLOCK), (None, ROWS, torch.zeros_like(ROWS)), (None, object())
    )
]


@pytest.mark.parametrize("pass_", PASSES, ids=str)
def test_blocks(pass_: Pass) -> None:
    kind = choose_graph(True, False, pass_, BLOCK)
    if pass_.ragged_verify_layout is not None or pass_.draft_token_num != BLOCK:
        assert kind is None
    elif pass_.bidirectional:
        assert kind is (GraphKind.DRAFT if pass_.lora_rows is None else GraphKind.DRAFT_LORA)
    else:
        assert kind is (GraphKind.VERIFY if pass_.lora_rows is None else None)


@pytest.mark.parametrize("pass_", PASSES, ids=str)
def test_lora_and_direction_are_never_mixed_up(pass_: Pass) -> None:
    kind = choose_graph(True, False, pass_, BLOCK)
    assert (kind is GraphKind.DRAFT_LORA) <= (pass_.lora_rows is not None and pass_.bidirectional)
    assert (kind is GraphKind.DRAFT) <= (pass_.lora_rows is None and pass_.bidirectional)
    assert (kind is GraphKind.VERIFY) <= (pass_.lora_rows is None and not pass_.bidirectional)
    assert kind is not GraphKind.DECODE


def test_decode() -> None:
    assert choose_graph(False, True, None, BLOCK) is GraphKind.DECODE
    assert choose_graph(False, True, None, 1) is GraphKind.DECODE
    assert choose_graph(False, True, Pass(False, 1), 1) is None
    assert choose_graph(False, True, Pass(True), BLOCK) is None


def test_anything_else_has_no_graph() -> None:
    for pass_ in (None, OtherPass(), *PASSES):
        assert choose_graph(False, False, pass_, BLOCK) is None  # type: ignore[arg-type]
    for other in (None, OtherPass()):
        assert choose_graph(True, False, other, BLOCK) is None  # type: ignore[arg-type]


def test_without_an_adapter_nothing_is_captured_with_it() -> None:
    assert block_kinds(has_lora=False) == (GraphKind.VERIFY, GraphKind.DRAFT)
    assert set(block_kinds(has_lora=True)) == {GraphKind.VERIFY, GraphKind.DRAFT, GraphKind.DRAFT_LORA}
    assert len({kind.value for kind in GraphKind}) == len(GraphKind)


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([1, 2, 4, 8], 8, [1, 2, 4, 8]),
        ([1, 2, 4, 8], 100, [1, 2, 4, 8]),
        ([1, 2, 4, 8], 5, [1, 2, 4, 5]),
        ([8, 4, 2, 1], 4, [1, 2, 4]),
        ([16, 32], 8, [8]),
        ([1, 2], 0, [1]),
    ],
)
def test_batch_sizes(sizes: list[int], most: int, expected: list[int]) -> None:
    assert block_batch_sizes(sizes, most) == expected


@pytest.mark.parametrize("backend", GRAPH_BACKENDS)
def test_backends_that_are_known(backend: str) -> None:
    check_backends(backend, backend)


@pytest.mark.parametrize(("prefill", "decode"), [("fa3", "triton"), ("torch_native", "torch_native")])
def test_other_backends_are_refused_by_name(prefill: str, decode: str) -> None:
    with pytest.raises(ValueError, match="attention_backend: got") as refused:
        check_backends(prefill, decode)
    message = str(refused.value)
    assert decode in message
    assert prefill in message
    assert "--disable-cuda-graph" in message


def test_rows_of_a_smaller_batch_leave_none_behind() -> None:
    static = torch.full((8, 1), 7.0)
    set_rows(static, torch.tensor([[1.0], [0.0], [1.0]]))
    assert static[:, 0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    set_rows(static, torch.zeros(1, 1))
    assert not static.any()
    with pytest.raises(ValueError, match="got 9"):
        set_rows(static, torch.ones(9, 1))
