"""Which engine is installed here; an environment has one."""

from importlib.util import find_spec

ENGINE = "sglang" if find_spec("sglang") else "vllm"
VLLM, SGLANG = ENGINE == "vllm", ENGINE == "sglang"
