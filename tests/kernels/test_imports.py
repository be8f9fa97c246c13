"""What importing and calling the kernels brings in, each time in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

OPERATORS = ("accept", "accept_sampled", "block_attention", "commit", "low_rank", "pick")
CALLS = """
import sys, torch
from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_kernels.accept_sampled import BlockLogits, accept_sampled
from nemotron_diffusion_kernels.block_attention import block_attention
from nemotron_diffusion_kernels.commit import Rules, commit
from nemotron_diffusion_kernels.low_rank import add_low_rank, expand, shrink
from nemotron_diffusion_kernels.noise import RowNoise
from nemotron_diffusion_kernels.pick import Sampling, merge_shards, pick, pick_shard
page = torch.ones(1, 16, 1, 32)
index = torch.tensor([0, 1], dtype=torch.int32)
block_attention(page[0, :1], page, page, index[None, :1], index, index[1:], index[1:] > 0,
                max_query_length=1, max_seq_length=16, backend=BACKEND)
pick(torch.zeros(1, 8), 3, backend=BACKEND)
one, row = torch.ones(1, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
accept(row[:, :3], row, one, one, backend=BACKEND)
noise = Sampling(one.float(), RowNoise(one, one, one))
pick(torch.zeros(1, 8), 3, sampling=noise, backend=BACKEND)
merge_shards(pick_shard(torch.zeros(1, 8), 3, 8, sampling=noise, backend=BACKEND)[None])
rows = BlockLogits(torch.zeros(4, 8), 0 * one)
accept_sampled(row[:, :3], one, one, rows, one.float(), one, one, draft=rows, backend=BACKEND)
y, weight = torch.ones(2, 8), torch.ones(8, 8)
add_low_rank(y, y.clone(), weight, weight, 1.0, backend=BACKEND)
expand(y, shrink(y, weight, backend=BACKEND), weight, 1.0, backend=BACKEND)
commit(row, row > 0, one, one, row, row.float(), Rules(one, one.float(), one, one), backend=BACKEND)
"""


def run(code: str, **variables: str) -> str:
    """Standard output of a Python process that sees the kernels' import root and nothing else of the project."""
    environment = {**os.environ, "PYTHONPATH": str(KERNELS), **variables}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=KERNELS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_torch_backends_work_without_triton_and_without_an_engine():
    code = "import sys; sys.modules['triton'] = None\n" + CALLS.replace("BACKEND", "'torch'")
    loaded = run(code + "print(*sys.modules)").split()
    assert {f"nemotron_diffusion_kernels.{operator}.reference" for operator in OPERATORS} <= set(loaded)
    foreign = {"vllm", "sglang", "transformers", "nemotron_diffusion_plugin", "nemotron_diffusion_patches"}
    assert not foreign & {name.split(".")[0] for name in loaded}


def test_the_fast_path_does_not_import_the_references():
    code = CALLS.replace("BACKEND", "'triton'") + "print(*sys.modules)"
    loaded = run(code, TRITON_INTERPRET="1").split()
    assert {f"nemotron_diffusion_kernels.{operator}.triton" for operator in OPERATORS} <= set(loaded)
    assert not [name for name in loaded if name.startswith("nemotron") and name.endswith("reference")]


def test_the_package_itself_imports_nothing():
    loaded = run("import sys, nemotron_diffusion_kernels; print(*sys.modules)").split()
    assert not {"torch", "triton"} & set(loaded)
