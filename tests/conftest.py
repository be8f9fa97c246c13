"""What must be set before any test module is imported."""

import os

from tests.engines.server import has_gpu

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core take many times longer
if not has_gpu() and "SGLANG_USE_CPU_ENGINE" not in os.environ:  # SGLang compiles nothing on a CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers may do
