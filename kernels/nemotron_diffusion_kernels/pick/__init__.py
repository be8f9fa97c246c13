"""A token from a row of logits, the most likely or a drawn one, with its confidence."""

from .api import pick

__all__ = ["pick"]
