"""Tests that a server of either engine must pass; `tests/vllm` and `tests/sglang` collect them for their servers."""
