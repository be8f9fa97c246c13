"""Log-probabilities of diffusion in SGLang's output."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.sglang.worker.logprobs import put_commit_scores
from tests.serving.toy import BLOCK, DIFFUSION, VOCAB, make_table, take

pytestmark = pytest.mark.engine

SLOT, STRIDE = 2, BLOCK
IMPOSSIBLE, LIKELY = 5, 7


def output_of(rows: int) -> Any:
    """What SGLang hands over: causal scores, 1.0 everywhere."""
    return SimpleNamespace(
        next_token_logprobs=torch.ones(rows, STRIDE),
        next_token_top_logprobs_val=[[1.0]] * (rows * STRIDE),
        next_token_top_logprobs_idx=[[1]] * (rows * STRIDE),
        next_token_token_ids_logprobs_val=[[1.0]] * (rows * STRIDE),
    )


def test_no_infinity_is_handed_over() -> None:
    """A named token that cannot be, whose logit is minus infinity; JSON has no word for it."""
    table = make_table()
    take(table, SLOT, DIFFUSION, logprobs=2, named_logprobs=(IMPOSSIBLE, LIKELY))
    logits = torch.zeros(BLOCK, VOCAB)
    logits[:, LIKELY], logits[:, IMPOSSIBLE] = 9.0, -torch.inf
    slots = np.array([0, SLOT])
    table.logprobs.see(SLOT, logits, torch.full((BLOCK,), LIKELY))
    table.logprobs.commit(slots, torch.ones(2, BLOCK, dtype=torch.bool))

    output = output_of(2)
    put_commit_scores(table, output, slots, np.array([BLOCK, BLOCK]), STRIDE)
    committed = slice(STRIDE, 2 * STRIDE - 1)
    named = torch.stack(output.next_token_token_ids_logprobs_val[committed])
    expected = logits[1:].log_softmax(dim=1)
    assert named[:, 0].tolist() == [torch.finfo(torch.float32).min] * (BLOCK - 1)
    assert named[:, 1].tolist() == pytest.approx(expected[:, LIKELY].tolist())
    assert output.next_token_logprobs[1, :-1].tolist() == pytest.approx(expected[:, LIKELY].tolist())
    assert all(ids[0] == LIKELY for ids in output.next_token_top_logprobs_idx[committed])
    json.dumps(named.tolist(), allow_nan=False)


def test_the_others_and_the_next_seed_keep_the_causal_ones() -> None:
    table = make_table()
    take(table, SLOT, DIFFUSION, logprobs=1)
    slots = np.array([0, SLOT])
    table.logprobs.see(SLOT, torch.zeros(BLOCK, VOCAB), torch.full((BLOCK,), LIKELY))
    table.logprobs.commit(slots, torch.ones(2, BLOCK, dtype=torch.bool))
    output = output_of(2)
    put_commit_scores(table, output, slots, np.array([BLOCK, BLOCK]), STRIDE)
    assert output.next_token_logprobs[0].tolist() == [1.0] * STRIDE
    assert output.next_token_logprobs[1, -1].item() == 1.0
    assert output.next_token_top_logprobs_val[-1] == [1.0]
