"""Attention of blocks of queries over a paged KV cache."""

from .api import block_attention
from .tiling import Tiling, default_tiling

__all__ = ["Tiling", "block_attention", "default_tiling"]
