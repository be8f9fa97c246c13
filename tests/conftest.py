"""What must be set before any test module is imported."""

import os

from tests.engines.server import has_gpu

if not has_gpu() and "SGLANG_USE_CPU_ENGINE" not in os.environ:  # SGLang compiles nothing on a CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers may do
