"""`python -m sglang.bench_serving` in SGLang's environment for a CPU: `python sglang_bench.py PACKAGES [options]`.

That environment lacks packages which only this program of SGLang's imports; the folder PACKAGES comes last on the path.
"""

from __future__ import annotations

import runpy
import sys

sys.path.append(sys.argv.pop(1))
runpy.run_module("sglang.bench_serving", run_name="__main__", alter_sys=True)
