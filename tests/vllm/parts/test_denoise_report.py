"""What the worker reports of finished blocks, and what the scheduler counts of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.drafting import DraftResult
from nemotron_diffusion_plugin.serving.request_counts import counts_of, start_counting
from nemotron_diffusion_plugin.vllm.core.scheduler import BlockScheduling
from nemotron_diffusion_plugin.vllm.messages import DenoiseReport
from nemotron_diffusion_plugin.vllm.worker.speculator import BlockSpeculator
from tests.serving.toy import BLOCK, DIFFUSION, make_table, take

pytestmark = pytest.mark.engine

SLOT = 2


def test_a_step_that_finishes_two_blocks_of_a_request_counts_both() -> None:
    """One before its verify forward, as it was scheduled while it held masks, and the next one after it."""
    table = make_table()
    take(table, SLOT, DIFFUSION)
    speculator: Any = SimpleNamespace(
        table=table,
        req_states=SimpleNamespace(
            index_to_req_id={SLOT: "r"}, draft_tokens=torch.zeros(len(table.mode), BLOCK - 1).long()
        ),
        _report=DenoiseReport(),
    )
    slots, index = np.array([SLOT]), torch.tensor([SLOT])
    for steps in (4, 2):
        table.begin_blocks(slots, np.array([10]), torch.tensor([1]), 64)
        for step in range(1, steps + 1):
            table.denoised(slots, index, table.read_blocks(index), torch.tensor([step == steps]))
        BlockSpeculator._report_finished(speculator, DraftResult(finished=[SLOT]))
    assert speculator._report.denoise_steps == [("r", 4), ("r", 2)]

    counted: list[tuple[str, DecodingMode, int]] = []
    request = SimpleNamespace()
    start_counting(request, DecodingMode.DIFFUSION)
    board = SimpleNamespace(add=lambda *what: counted.append(what), observe=lambda *_: None)
    scheduler: Any = SimpleNamespace(board=board, requests={"r": request})
    BlockScheduling._count_denoising(scheduler, speculator._report)
    assert [steps for _, _, steps in counted] == [4, 2]
    counts = counts_of(request)
    assert counts is not None
    assert counts.denoise_steps == [4, 2]
