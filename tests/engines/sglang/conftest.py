"""The tests of the stand-in need it on the path, which it is on a machine without a GPU: make test-engine."""

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("sglang_on_cpu") else ["test_attention.py", "test_backend.py", "test_kernels.py"]
)
