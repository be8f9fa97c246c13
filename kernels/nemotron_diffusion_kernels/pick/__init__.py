"""The most likely token of a row of logits, with its confidence."""

from .api import Picked, pick

__all__ = ["Picked", "pick"]
