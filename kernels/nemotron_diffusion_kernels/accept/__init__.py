"""How many drafts a verify forward accepts."""

from .api import accept

__all__ = ["accept"]
