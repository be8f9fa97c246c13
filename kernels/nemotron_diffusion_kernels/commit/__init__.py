"""The denoise step's commit: which masked positions take their token, and which blocks are finished."""

from .api import commit
from .rules import Rule, Rules

__all__ = ["Rule", "Rules", "commit"]
