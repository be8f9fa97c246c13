"""The reference decoder: a plain forward with explicit masks and one function per decoding mode."""
