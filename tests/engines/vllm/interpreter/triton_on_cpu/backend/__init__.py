"""A Triton backend that compiles nothing: with it vLLM accepts Triton on a CPU."""
