"""The kernels compile for GPUs from compute capability 8.0 on; Triton needs no GPU for that."""

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

def compile_kernel(module, kernel, num_warps, pointers, constants, floats=()):
    function = getattr(importlib.import_module(f"nemotron_diffusion_kernels.{module}"), kernel)
    names = function.arg_names
    kinds = {**pointers, **dict.fromkeys(floats, "fp32"), **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds.get(name, "i32") for name in names}
    constants = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name in names
        if signature[name].startswith("*") or name.endswith("_stride") or name in ("depth", "width")
    }
    source = triton.compiler.ASTSource(function, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options={"num_warps": num_warps})
    print(module, kernel, compiled.metadata.shared)
"""

ATTENTION = {
    "DIM": 128,
    "HEADS": 32,
    "HEAD_DIM": 128,
    "SPLIT": 512,
}
MERGED = dict.fromkeys(["values", "sums", "confidence"], "*fp32")
SAMPLING = {"temperature": "*fp32", **dict.fromkeys(["seeds", "positions", "steps"], "*i64")}
CASES = {
    "split": (
        "block_attention.triton",
        "_split_kernel",
        4,
        {
            **dict.fromkeys(["query", "key_pages", "value_pages"], "*bf16"),
            **dict.fromkeys(["page_table", "query_start_loc", "seq_lens"], "*i32"),
            "is_causal": "*i1",
            **dict.fromkeys(["partial_sum", "partial_stats"], "*fp32"),
        },
        {
            **ATTENTION,
            **{"PAGE_SIZE": 16, "GROUP": 4, "ROWS": 64, "KEYS": 64, "ROW_TILES": 2, "MAX_QUERY": 32},
            **{"STAGES": 2, "WIDEN": False},
        },
        ["scale_log2"],
    ),
    "merge": (
        "block_attention.triton",
        "_merge_kernel",
        4,
        {
            **dict.fromkeys(["query_start_loc", "seq_lens"], "*i32"),
            **dict.fromkeys(["partial_sum", "partial_stats"], "*fp32"),
            "out": "*bf16",
        },
        {**ATTENTION, "MERGED": 16},
        ["value_scale"],
    ),
    "pick": (
        "pick.triton",
        "_tile_kernel",
        8,
        {"logits": "*bf16", **dict.fromkeys(["values", "sums"], "*fp32"), "ids": "*i32"},
        {
            "TILE": 4096,
            "WHOLE": True,
            "DRAWN": False,
            "SURE": True,
            "scores": None,
            **dict.fromkeys(SAMPLING),
        },
    ),
    "pick tokens": (
        "pick.triton",
        "_tile_kernel",
        8,
        {"logits": "*bf16", "values": "*fp32", "ids": "*i32"},
        {
            **{"TILE": 4096, "WHOLE": True, "DRAWN": False, "SURE": False},
            **dict.fromkeys(["scores", "sums", *SAMPLING]),
        },
    ),
    "pick drawn": (
        "pick.triton",
        "_tile_kernel",
        8,
        {
            **dict.fromkeys(["values", "sums"], "*fp32"),
            **{"logits": "*bf16", "ids": "*i32", "scores": "*fp64"},
            **SAMPLING,
        },
        {"TILE": 4096, "WHOLE": False, "DRAWN": True, "SURE": True},
    ),
    "pick merge": (
        "pick.triton",
        "_merge_kernel",
        1,
        {**MERGED, "ids": "*i32", "tokens": "*i64"},
        {"TILES": 32, "DRAWN": False, "SURE": True, "scores": None},
    ),
    "pick merge drawn": (
        "pick.triton",
        "_merge_kernel",
        1,
        {**MERGED, "ids": "*i32", "tokens": "*i64", "scores": "*fp64"},
        {"TILES": 32, "DRAWN": True, "SURE": True},
    ),
    "commit": (
        "commit.triton",
        "_commit_kernel",
        4,
        {
            **dict.fromkeys(["tokens", "step", "num_masks", "picked", "kinds", "step_bounds"], "*i64"),
            **dict.fromkeys(["tokens_per_step", "stop_token_ids"], "*i64"),
            **dict.fromkeys(["confidence", "thresholds"], "*fp32"),
            **dict.fromkeys(["masked", "finished"], "*i1"),
        },
        {"BLOCK_SIZE": 32, "COLUMNS": 32, "STOPS": 100, "STOP_COLUMNS": 128},
    ),
    "accept": (
        "accept.triton",
        "_accept_kernel",
        1,
        {**dict.fromkeys(["drafts", "verified", "accepted"], "*i64"), "num_drafts": "*i32"},
        {"DRAFTS": 31, "COLUMNS": 32},
    ),
    "low rank shrink": (
        "low_rank.triton",
        "_shrink_kernel",
        4,
        {"out": "*fp32", **dict.fromkeys("xa", "*bf16"), "flags": "*i1"},
        {"RANK": 128, "ROWS": 16, "DEPTH": 512, "RANKS": 16, "WIDEN": False},
    ),
    "low rank expand": (
        "low_rank.triton",
        "_expand_kernel",
        4,
        {"low": "*fp32", **dict.fromkeys("yb", "*bf16"), "flags": "*i1"},
        {"RANK": 128, "ROWS": 16, "RANKS": 128, "COLUMNS": 64, "WIDEN": False},
    ),
    "low rank expand, the widest": (
        "low_rank.triton",
        "_expand_kernel",
        4,
        {**dict.fromkeys(["low", "y", "b"], "*fp32"), "flags": "*i1"},
        {"RANK": 256, "ROWS": 16, "RANKS": 256, "COLUMNS": 32, "WIDEN": False},
    ),
}


@pytest.mark.parametrize(
    ("capability", "shared_memory"),
    [
        (80, 163 << 10),
        (90, 227 << 10),
        (100, 227 << 10),
    ],
)
def test_all_kernels_compile(capability, shared_memory, tmp_path):
    calls = "\n".join(f"compile_kernel(*{case!r})" for case in CASES.values())
    code = f"CAPABILITY = {capability}\n{COMPILE}{calls}"
    kernels = Path(__file__).resolve().parents[2] / "kernels"
    environment = {**os.environ, "PYTHONPATH": str(kernels), "TRITON_CACHE_DIR": str(tmp_path)}
    environment["TRITON_INTERPRET"] = "0"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    compiled = [line.split() for line in result.stdout.splitlines()]
    assert [(module, kernel) for module, kernel, _ in compiled] == [case[:2] for case in CASES.values()]
    assert all(int(shared) <= shared_memory for *_, shared in compiled)
