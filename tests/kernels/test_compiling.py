"""The kernels compile for a GPU of compute capability 9.0; Triton needs no GPU for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia", reason="this Triton has no NVIDIA compiler")

COMPILE = """
import importlib, sys
import triton
from triton.backends.compiler import GPUTarget

def compile_kernel(operator, kernel, pointers, constants, floats=()):
    function = getattr(importlib.import_module(f"nemotron_diffusion_kernels.{operator}.triton"), kernel)
    names = function.arg_names
    kinds = {**pointers, **dict.fromkeys(floats, "fp32"), **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds.get(name, "i32") for name in names}
    constants = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name.endswith("_stride")}
    source = triton.compiler.ASTSource(function, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    print(operator, kernel, compiled.metadata.shared)
"""

ATTENTION = {
    "DIM": 128,
    "HEADS": 32,
    "HEAD_DIM": 128,
    "SPLIT": 512,
}
CASES = {
    "split": (
        "block_attention",
        "_split_kernel",
        {
            **dict.fromkeys(["query", "key_pages", "value_pages"], "*bf16"),
            **dict.fromkeys(["page_table", "query_start_loc", "seq_lens"], "*i32"),
            "is_causal": "*i1",
            **dict.fromkeys(["partial_sum", "partial_stats"], "*fp32"),
        },
        {
            **ATTENTION,
            **{"PAGE_SIZE": 16, "GROUP": 4, "ROWS": 64, "KEYS": 64, "ROW_TILES": 2, "MAX_QUERY": 32},
            **{"STAGES": 2, "WIDEN": False, "FORM": 2, "BLOCK": 16},
        },
        ["scale_log2"],
    ),
    "merge": (
        "block_attention",
        "_merge_kernel",
        {
            **dict.fromkeys(["query_start_loc", "seq_lens"], "*i32"),
            **dict.fromkeys(["partial_sum", "partial_stats"], "*fp32"),
            "out": "*bf16",
        },
        {**ATTENTION, "MERGED": 16},
        ["value_scale"],
    ),
    "pick": (
        "pick",
        "_tile_kernel",
        {"logits": "*bf16", "stats": "*fp32", "ids": "*i32"},
        {"TILE": 4096, "WITH_SECOND": True},
    ),
    "pick merge": (
        "pick",
        "_merge_kernel",
        {
            **dict.fromkeys(["stats", "confidence", "second_confidence"], "*fp32"),
            **dict.fromkeys(["tokens", "second_tokens"], "*i64"),
            "ids": "*i32",
        },
        {"TILES": 32, "WITH_SECOND": True},
    ),
    "commit": (
        "commit",
        "_commit_kernel",
        {
            **dict.fromkeys(["tokens", "step", "num_masks", "picked", "kinds", "step_bounds"], "*i64"),
            **dict.fromkeys(["tokens_per_step", "stop_token_ids"], "*i64"),
            **dict.fromkeys(["confidence", "thresholds"], "*fp32"),
            **dict.fromkeys(["masked", "finished"], "*i1"),
        },
        {"BLOCK_SIZE": 32, "COLUMNS": 32, "STOPS": 2},
    ),
    "accept": (
        "accept",
        "_accept_kernel",
        {
            **dict.fromkeys(["drafts", "verified", "accepted", "emitted", "seeds", "new_lengths"], "*i64"),
            **dict.fromkeys(["num_drafts", "lengths"], "*i32"),
        },
        {"DRAFTS": 31, "COLUMNS": 32},
    ),
}


def test_all_kernels_compile_for_compute_capability_90(tmp_path):
    calls = "\n".join(f"compile_kernel(*{case!r})" for case in CASES.values())
    kernels = Path(__file__).resolve().parents[2] / "kernels"
    environment = {**os.environ, "PYTHONPATH": str(kernels), "TRITON_CACHE_DIR": str(tmp_path)}
    environment["TRITON_INTERPRET"] = "0"
    result = subprocess.run(
        [sys.executable, "-c", COMPILE + calls], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    compiled = [line.split() for line in result.stdout.splitlines()]
    assert [(operator, kernel) for operator, kernel, _ in compiled] == [case[:2] for case in CASES.values()]
    assert all(int(shared) <= 227 * 1024 for *_, shared in compiled)
