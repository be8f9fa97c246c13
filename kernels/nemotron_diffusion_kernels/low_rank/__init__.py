"""The drafter LoRA on some rows of a projection: y += scale * B(A x)."""

from .api import add_low_rank, expand, request_rows, shrink

__all__ = ["add_low_rank", "expand", "request_rows", "shrink"]
