"""A token from a row of logits, the most likely or a drawn one, with or without its confidence."""

from .api import pick, pick_tokens

__all__ = ["pick", "pick_tokens"]
