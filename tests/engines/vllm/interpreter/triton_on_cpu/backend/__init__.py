"""A Triton backend that compiles nothing: it makes vLLM accept Triton on a CPU, the interpreter does the work."""
