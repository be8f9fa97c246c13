"""Attention of blocks of queries over a paged KV cache."""

from .api import block_attention
from .structure import ONE_BLOCK, Form, Structure
from .tiling import Tiling, default_tiling

__all__ = ["ONE_BLOCK", "Form", "Structure", "Tiling", "block_attention", "default_tiling"]
