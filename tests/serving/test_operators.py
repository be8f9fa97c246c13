"""The two implementations of the operators agree, and one that cannot run here is refused."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.options import MAX_STOP_IDS, CommitRule, OptionError
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.kernel_choice import check_kernels
from nemotron_diffusion_plugin.serving.operators import TorchOperators, make_operators
from nemotron_diffusion_plugin.serving.slots import NO_TOKEN
from nemotron_diffusion_plugin.serving.triton_operators import TritonOperators

CPU = torch.device("cpu")
TORCH, TRITON = TorchOperators(), make_operators("triton", CPU)
VOCAB, MASK, BLOCK = 50, 17, 8


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_choice() -> None:
    assert isinstance(make_operators("torch", CPU), TorchOperators)
    assert isinstance(TRITON, TritonOperators)
    assert isinstance(make_operators("torch", torch.device("cuda")), TorchOperators)


@pytest.mark.parametrize(
    ("kernels", "device", "interpreted", "message"),
    [
        ("cuda", "cuda", "1", "got 'cuda', expected one of torch, triton"),
        (
            "triton",
            "cpu",
            "0",
            "got 'triton' on cpu, expected a CUDA device; use 'torch', or set TRITON_INTERPRET=1",
        ),
        ("triton", "xpu", "0", "on xpu"),
    ],
)
def test_what_cannot_run_is_refused(
    kernels: str, device: str, interpreted: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    with pytest.raises(OptionError, match=f"'kernels': .*{message}"):
        make_operators(kernels, torch.device(device))


def test_triton_alone_needs_triton() -> None:
    """In a process of its own, without Triton."""
    code = """
import importlib.util
import torch
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else found(name, *rest)
from nemotron_diffusion_plugin.serving.operators import make_operators
make_operators("torch", torch.device("cuda"))
make_operators("triton", torch.device("cuda"))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OptionError: field 'kernels': got 'triton', but Triton is not installed" in ran.stderr


def test_a_gpu_takes_either() -> None:
    check_kernels("torch", "cuda")
    check_kernels("triton", "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampled", [False, True])
def test_pick(dtype: torch.dtype, sampled: bool) -> None:
    """Ties, bans and the mask id on top; the same noise in either."""
    rows = 12
    logits = (torch.randn(rows, VOCAB + 6, generator=drawn(1)) * 4).to(dtype)[:, :VOCAB]
    logits[1, 20] = logits[1, 30] = 30.0
    logits[2, MASK] = 40.0
    logits[3, ::2] = -torch.inf
    sampling = None
    if sampled:
        row = torch.arange(rows)
        temperature = torch.where(row % 3 == 0, 0.0, row / 6.0).double()
        sampling = BlockSampling(temperature, row * 97 - 300, row + 2**31, row % 4)
    before = logits.clone()
    tokens, confidence = TORCH.pick(logits, MASK, sampling)
    same, close = TRITON.pick(logits, MASK, sampling)
    assert torch.equal(tokens, same)
    for operators in (TORCH, TRITON):
        assert torch.equal(operators.pick_tokens(logits, MASK, sampling), tokens), operators.name
    torch.testing.assert_close(confidence, close, rtol=1e-5, atol=1e-7)
    assert (tokens.dtype, confidence.dtype) == (same.dtype, close.dtype) == (torch.int64, torch.float32)
    assert torch.equal(logits, before)
    assert MASK not in tokens.tolist()


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_commit(seed: int) -> None:
    """All rules over random blocks, some of them short, some finished, with and without stop tokens."""
    random, rows = drawn(seed), 5
    lengths = torch.randint(1, BLOCK + 1, (rows,), generator=random)
    blocks = BlockState.start(torch.randint(0, VOCAB, (rows,), generator=random), lengths, BLOCK, MASK)
    blocks.commit(
        torch.randint(0, VOCAB, (rows, BLOCK), generator=random),
        torch.rand(rows, BLOCK, generator=random) < 0.4,
    )
    picked = torch.randint(0, VOCAB, (rows, BLOCK), generator=random)
    confidence = (
        torch.randint(0, 9, (rows, BLOCK), generator=random) / 8.0
    )  # ties, and thresholds met exactly
    rules = CommitRules(
        torch.randint(0, len(CommitRule), (rows,), generator=random),
        torch.randint(1, 9, (rows,), generator=random) / 8.0,
        torch.randint(0, BLOCK, (rows,), generator=random),
        torch.randint(1, BLOCK, (rows,), generator=random),
    )
    stops = torch.full((rows, MAX_STOP_IDS), NO_TOKEN)
    stops[:, :20] = torch.randint(0, VOCAB, (rows, 20), generator=random)
    stops[0] = NO_TOKEN
    stops[1, 3] = MASK  # what a short block holds past its end is no token
    other = copy.deepcopy(blocks)
    finished = TORCH.commit(blocks, picked, confidence, rules, stops)
    assert torch.equal(finished, TRITON.commit(other, picked, confidence, rules, stops))
    for name in ("tokens", "masked", "length", "step"):
        assert torch.equal(getattr(blocks, name), getattr(other, name)), name


@given(st.integers(0, 10**6), st.integers(1, BLOCK))
@settings(max_examples=25, deadline=None)
def test_accept(seed: int, width: int) -> None:
    """Drafts are a view of the chain, as acceptance has them."""
    random, rows = drawn(seed), 6
    chain = torch.randint(0, 2, (rows, width), generator=random)
    picks = torch.randint(0, 2, (rows, width), generator=random)
    num_drafts = torch.randint(0, width, (rows,), generator=random)
    accepted = TORCH.accept(chain[:, 1:], picks, num_drafts)
    assert torch.equal(accepted, TRITON.accept(chain[:, 1:], picks, num_drafts))
    assert (accepted <= num_drafts).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_low_rank_branch(dtype: torch.dtype) -> None:
    tokens, depth, width, rank = 7, 40, 33, 12
    shapes = ((tokens, depth), (rank, depth), (width, rank), (tokens, width))
    inputs, a, b, before = (torch.randn(*shape, generator=drawn(sum(shape))).to(dtype) for shape in shapes)
    rows = torch.tensor([1, 0, 1, 1, 0, 0, 1])[:, None].to(dtype)
    outputs = [before.clone(), before.clone()]
    for operators, output in zip((TORCH, TRITON), outputs, strict=True):
        operators.expand(output, operators.shrink(inputs, a, rows), b, rows)
        assert torch.equal(output[rows[:, 0] == 0], before[rows[:, 0] == 0])
        assert not torch.equal(output[0], before[0])
    torch.testing.assert_close(*outputs, **({"rtol": 2e-2, "atol": 0.3} if dtype == torch.bfloat16 else {}))
