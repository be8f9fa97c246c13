"""The denoise step's commit: which masked positions take their token, and which blocks are finished."""

from .api import commit

__all__ = ["commit"]
