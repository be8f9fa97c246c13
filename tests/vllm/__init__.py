"""Tests of the vLLM plugin: through `vllm serve` and its HTTP API, in-process where the API cannot show it."""
