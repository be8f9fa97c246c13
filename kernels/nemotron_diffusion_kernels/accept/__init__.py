"""The acceptance of drafts by a verify forward."""

from .api import Accepted, accept

__all__ = ["Accepted", "accept"]
