"""The low-rank branch of the drafter LoRA on some rows of a projection: y += B(A x), in two steps."""

from .api import expand, shrink

__all__ = ["expand", "shrink"]
