"""What must be set before any test module is imported."""

import os

from tests.engines.vllm.launch import has_gpu

if not has_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers may do
