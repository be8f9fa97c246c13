"""Reproducible noise: a pure function of seed, position, step and token id."""

from .api import ACCEPTANCE, RowNoise, check_row_noise

__all__ = ["ACCEPTANCE", "RowNoise", "check_row_noise"]
