"""The acceptance of drafts at a temperature, by rejection sampling."""

from .api import BlockLogits, accept_sampled

__all__ = ["BlockLogits", "accept_sampled"]
