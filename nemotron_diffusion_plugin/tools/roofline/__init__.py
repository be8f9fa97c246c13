"""Speed limits by arithmetic: what a forward must read and compute, and the tokens per second that allows at most."""
