"""What importing and calling the kernels brings in, each time in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

OPERATORS = ("accept", "block_attention", "commit", "low_rank", "pick")
CALLS = """
import sys, torch
from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_kernels.block_attention import block_attention
from nemotron_diffusion_kernels.commit import commit
from nemotron_diffusion_kernels.low_rank import expand, shrink
from nemotron_diffusion_kernels.pick import pick
page = torch.ones(1, 16, 1, 32)
index = torch.tensor([0, 1], dtype=torch.int32)
one, row = torch.ones(1, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
y, weight, flags = torch.ones(2, 8), torch.ones(8, 8), torch.ones(2, dtype=torch.bool)
calls = [
    lambda: block_attention(page[0, :1], page, page, index[None, :1], index, index[1:], index[1:] > 0,
                            max_query_length=1, max_seq_length=16),
    lambda: pick(torch.zeros(1, 8), 3),
    lambda: pick(torch.zeros(1, 8), 3, one.float(), (one, one, one)),
    lambda: accept(row[:, :3], row, one),
    lambda: shrink(y, weight, flags),
    lambda: expand(y, y, weight, flags),
    lambda: commit(row, row > 0, one, one, row, row.float(), one, one.float(), one, one, row),
]
"""
RUN = "for call in calls: call()\n"
RUN_WITHOUT_TRITON = """
for call in calls:
    try:
        call()
    except RuntimeError as error:
        assert "Triton is not installed" in str(error), error
    else:
        raise AssertionError("something else ran in place of the kernel")
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


def test_without_triton_the_package_imports_and_every_operator_refuses():
    hidden = "import importlib.util as u, sys\nfound = u.find_spec\nsys.modules['triton'] = None\n"
    hidden += "u.find_spec = lambda name, *rest: None if name == 'triton' else found(name, *rest)\n"
    run(hidden + CALLS + RUN_WITHOUT_TRITON)


def test_the_kernels_run_without_the_plugin_and_without_an_engine():
    loaded = run(CALLS + RUN + "print(*sys.modules)", TRITON_INTERPRET="1").split()
    assert {f"nemotron_diffusion_kernels.{operator}.triton" for operator in OPERATORS} <= set(loaded)
    foreign = {"vllm", "sglang", "transformers", "nemotron_diffusion_plugin", "nemotron_diffusion_patches"}
    assert not foreign & {name.split(".")[0] for name in loaded}


def test_the_package_itself_imports_nothing():
    loaded = run("import sys, nemotron_diffusion_kernels; print(*sys.modules)").split()
    assert not {"torch", "triton"} & set(loaded)
